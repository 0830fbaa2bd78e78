"""Read label maps: one 8-bit class index per pixel, from a file that keeps it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmrkd_cli.data.file_types import lossy_type
from rmrkd_cli.data.image_file import MAX_BYTES, Picture, check_contents, name_problem, open_image
from rmrkd_cli.data.sample_format import SampleFormat, read_format
from rmrkd_cli.data.source_file import SourceFile, read_source
from rmrkd_cli.data.tiff_header import GREY_INVERTED
from rmrkd_cli.errors import RunError

LOSSY, COLOURS, VALUES = "lossy", "colours", "values"  # kinds of `LabelFormatError`


class LabelFormatError(RunError):
    """A readable label file that does not hold one 8-bit value per pixel, or does not keep it.

    Attributes:
        kind: `LOSSY`, `COLOURS`, or `VALUES` for values of another type.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "", kind: str = "") -> None:
        super().__init__(message, hint)
        self.args = (message, hint, kind)
        self.kind = kind


def read_labels(path: SourceFile) -> Picture:
    """Return the values (H, W) as stored in the file; for a palette PNG these are the indices.

    Grey values of 2 or 4 bits, or with a declared maximum below 255, are not scaled to 0..255, and a TIFF file whose 0
    is white is not inverted. A grey label map that is stored with three equal bands is read as well.

    Raises:
        CorruptFileError: As `read_image`.
        LabelFormatError: When the file does not hold one 8-bit value per pixel, or its compression changes values.
    """
    with name_problem(path, "a label map"):
        data = read_source(path, MAX_BYTES)
        if lossy := lossy_type(data):
            raise LabelFormatError(
                f"`{path}` is stored as {lossy}, which does not keep the class indices", fix_lossy(path), LOSSY
            )
        form = read_format(data)
        if form is None or form.tiff is None:
            check_contents(data)  # a damaged header can claim any format
        if form is not None and form.is_deep:
            raise _label_format_error(path, form.bands, f"{form.type_name}, {form.describe()}")
        if form is not None and form.tiff is not None:
            _check_tiff(path, data, form)
        with open_image(data) as image:
            channels, dtype, mode = *_pixel_type(image), image.mode
            if dtype == np.uint8 and (channels == 1 or mode in ("LA", "RGB", "RGBA")):
                return _one_band(path, _as_stored(np.asarray(image), form, mode), mode)
    raise _label_format_error(path, channels, f"{dtype} (mode {mode})")


def fix_lossy(path: SourceFile | str, label_suffix: str = "") -> str:
    """Return how to replace a lossy label map.

    Args:
        label_suffix: How the names of all label maps end; only the type in it has to change.
    """
    is_png = str(path).lower().endswith(".png")  # JPEG data can lie under any name
    suffix = f"{label_suffix.rpartition('.')[0]}.png"
    rename = "" if is_png else f", and set `data.label_suffix: {suffix}`"
    return (
        f"save the label maps again as PNG from their source{rename}: a copy of this file in another format keeps its "
        "errors"
    )


def _check_tiff(path: SourceFile, data: bytes, form: SampleFormat) -> None:
    """Check the contents of a TIFF file, and do not call one damaged that Pillow merely cannot read."""
    from PIL import UnidentifiedImageError

    try:
        check_contents(data)
    except UnidentifiedImageError:
        if form.bands == 1 and form.bits == 8:
            raise
        raise _label_format_error(path, form.bands, f"{form.type_name}, {form.describe()}") from None


def _as_stored(pixels: Picture, form: SampleFormat | None, mode: str) -> Picture:
    """Undo what Pillow does to grey values: it stretches them to 0..255, and inverts them where 0 is white."""
    if form is None or mode == "P":
        return pixels
    if form.tiff is not None and form.tiff.photometric == GREY_INVERTED:
        pixels = 255 - pixels
    white = form.declared_max or (1 << form.bits) - 1
    if white == 255:
        return pixels
    table = np.rint(np.arange(256) * white / 255).astype(np.uint8)  # exact: two values are at least 1 apart in 0..255
    stored: Picture = table[pixels]
    return stored


def _label_format_error(path: SourceFile, channels: int, found: str) -> LabelFormatError:
    return LabelFormatError(
        f"`{path}` must hold one 8-bit value per pixel, found {channels} channel{'s' * (channels > 1)} of {found}",
        "save it as an 8-bit PNG",
        VALUES,
    )


def _one_band(path: SourceFile, pixels: Picture, mode: str) -> Picture:
    """Return the label values of a grey image; its bands of colour must be equal, and its transparency constant."""
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., :-1] if mode in ("LA", "RGBA") else pixels
    if any((colours[..., band] != colours[..., 0]).any() for band in range(1, colours.shape[2])):
        raise LabelFormatError(
            f"`{path}` must hold one 8-bit value per pixel, found colours: {pixels.shape[2]} channels of uint8 "
            f"(mode {mode})",
            "write one class index per pixel instead of a colour", COLOURS,
        )  # fmt: skip
    if mode in ("LA", "RGBA") and pixels[..., -1].min() != pixels[..., -1].max():
        raise LabelFormatError(
            f"`{path}` must hold one 8-bit value per pixel, found a band of transparency that varies (mode {mode})",
            "save the class indices as an 8-bit PNG without transparency", VALUES,
        )  # fmt: skip
    return np.ascontiguousarray(colours[..., 0])


def _pixel_type(image: Any) -> tuple[int, np.dtype[Any]]:
    """Return the channels and the type of the pixels, without decoding them."""
    from PIL import ImageMode

    mode = ImageMode.getmode(image.mode)
    return len(mode.bands), np.dtype(mode.typestr)
