"""Read image files: pixels, size, structure. `deep_image.py` states the rule for values beyond 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.deep_image import (
    UnsupportedFormatError,
    ValueRange,
    check_bands,
    decode_values,
    is_misread,
    measure_values,
    to_picture,
    unused_band,
)
from rmrkd_cli.data.file_types import foreign_type
from rmrkd_cli.data.image_file import (
    FIX_FORMAT,
    FORMATS,
    MAX_BYTES,
    DamageError,
    ImageFormatError,
    Size,
    bounded,
    bounded_size,
    check_contents,
    name_problem,
    open_image,
)
from rmrkd_cli.data.image_file import MAX_PIXELS as MAX_PIXELS
from rmrkd_cli.data.image_file import Picture as Picture
from rmrkd_cli.data.opencv import decode
from rmrkd_cli.data.sample_format import SampleFormat, read_format
from rmrkd_cli.data.source_file import SourceFile, open_source, read_source
from rmrkd_cli.data.tiff_header import GREY, GREY_INVERTED, is_tiff

FIX_BELOW = (
    "unless they only mark missing data, convert the images so that black is 0, such as `gdal_translate -ot UInt16 "
    "-scale BLACK WHITE 0 65535 IN.tif OUT.tif`, and set `data.max_value: 65535`"
)


class ImageFacts(NamedTuple):
    """What `inspect_image` finds.

    Attributes:
        unused_band: Which band is not used; a sentence whose subject is the file, or empty.
        values: Of an image beyond 8 bits; None for others.
    """

    size: Size
    unused_band: str = ""
    values: ValueRange | None = None


def read_image(path: SourceFile, max_value: float | None = None) -> Picture:
    """Return the pixels (H, W, 3) in BGR order; of 8-bit images those of `cv2.imread`.

    Args:
        max_value: The value of white in images beyond 8 bits, which are refused without it; see `deep_image.py`.

    Raises:
        CorruptFileError: When the file is missing, damaged, or larger than `MAX_PIXELS`.
        ImageFormatError: When its values are not supported, or need `max_value`.
    """
    return _read(path, max_value, measure=False)[0]


def read_measured_image(path: SourceFile, max_value: float | None = None) -> tuple[Picture, ValueRange | None]:
    """Return the pixels as `read_image`, and the range of the values of an image beyond 8 bits.

    Raises:
        CorruptFileError, ImageFormatError: As `read_image`.
    """
    return _read(path, max_value, measure=True)


def inspect_image(path: SourceFile, max_value: float | None = None, *, decode: bool = True) -> ImageFacts:
    """Return the size of an image as `read_image` would give it, and how its values are stored.

    Images beyond 8 bits are inspected without `max_value` as well.

    Args:
        max_value: As in `read_image`.
        decode: Decode every image; otherwise of most PNG and JPEG only the structure is checked.

    Raises:
        CorruptFileError, ImageFormatError: As `read_image`.
    """
    with name_problem(path, "an image"):
        data = read_source(path, MAX_BYTES)
        form = _read_supported_format(data)
        band = unused_band(form)
        if form is not None and form.is_deep:
            values = _decode_deep(data, form)
            return ImageFacts(Size(*values.shape[:2]), band, measure_values(values, form, max_value))
        if decode or (form is not None and form.tiff is not None):
            return ImageFacts(Size(*_decode(data, form).shape[:2]), band)
        return ImageFacts(check_contents(data), band)


def header_size(path: SourceFile) -> Size:
    """Return the size in the header of an image file, before its EXIF rotation, without reading the rest.

    Raises:
        CorruptFileError: When there is no valid header, or it claims more than `MAX_PIXELS`.
    """
    with name_problem(path, "an image"), open_source(path, MAX_BYTES) as stream:
        if is_tiff(stream.read(4)):
            form = read_format(read_source(path, MAX_BYTES))
            if form is not None:
                return bounded(*form.size)
        stream.seek(0)
        with open_image(stream) as image:
            return bounded_size(image)


def is_utf8_path(path: SourceFile) -> bool:
    """Return whether a path is valid UTF-8; OpenCV crashes the process when it opens one that is not."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def _read(path: SourceFile, max_value: float | None, *, measure: bool) -> tuple[Picture, ValueRange | None]:
    with name_problem(path, "an image"):
        data = read_source(path, MAX_BYTES)
        form = _read_supported_format(data)
        if form is None or not form.is_deep:
            return _decode(data, form), None
        values = _decode_deep(data, form)
        if max_value is None:
            raise _max_value_error(path, measure_values(values, form, None))
        measured = measure_values(values, form, max_value) if measure else None
        return to_picture(values, form, max_value), measured


def _read_supported_format(data: bytes) -> SampleFormat | None:
    """Return how the values are stored, if the header says it.

    Raises:
        UnsupportedFormatError: When the file is of a type that is not read, or has too many bands.
    """
    form = read_format(data)
    if form is not None:
        check_bands(form)
    elif foreign := foreign_type(data):
        raise UnsupportedFormatError(f"is a file of type {foreign}; supported are {', '.join(FORMATS)}", FIX_FORMAT)
    return form


def _decode(data: bytes, form: SampleFormat | None) -> Picture:
    """Return the pixels of an image of up to 8 bits."""
    import cv2

    if form is not None and form.tiff is not None:
        bounded(*form.size)
        if form.bits in (2, 4) and form.tiff.photometric in (GREY_INVERTED, GREY):
            return _decode_with_pillow(data)  # OpenCV reads 1 and 8 bits
        if is_misread(form.tiff):
            data = form.tiff.without_meaning(data)
    else:
        with open_image(data) as header:
            bounded_size(header)
        if form is not None and (form.is_text or (form.declared_max or 255) < 255):
            return _decode_with_pillow(data)  # OpenCV does not scale by the declared maximum
    image: Picture | None = decode(data, cv2.IMREAD_COLOR)
    if image is None:
        if form is not None and form.tiff is not None:
            stored = f"{form.bits} bits, {form.bands} bands, compression {form.tiff.compression}"
            raise DamageError(f"its pixel data is damaged, or stored in a way that is not supported ({stored})")
        check_contents(data)  # gives a more precise reason
        raise DamageError("its pixel data is damaged or incomplete")
    return image


def _decode_with_pillow(data: bytes) -> Picture:
    with open_image(data) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def _decode_deep(data: bytes, form: SampleFormat) -> NDArray[Any]:
    bounded(*form.size)
    return decode_values(data, form)


def _max_value_error(path: SourceFile, found: ValueRange) -> ImageFormatError:
    start = f" from {found.smallest:g}" if found.smallest < 0 else ""
    return ImageFormatError(
        f"`{path}` holds {found.format}{start} up to {found.largest:g}, and no `max_value` says which value is white",
        max_value_fix([found]), str(path), found.suggested,
    )  # fmt: skip


def max_value_fix(found: Sequence[ValueRange]) -> str:
    """Return how to set `data.max_value` for images with these values."""
    suggested, largest = max(one.suggested for one in found), max(one.largest for one in found)
    smallest = min(one.smallest for one in found)
    below = f". Values below 0 become 0 (the smallest value found is {smallest:.10g}): {FIX_BELOW}"
    return (
        f"set `data.max_value` in the preset to the value of white, such as `max_value: {suggested:.10g}` (the largest "
        f"value found is {largest:.10g}); it becomes 255{below if smallest < 0 else ''}"
    )
