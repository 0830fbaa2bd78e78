"""Read image and label files; a damaged, truncated or oversized file is an error that names it.

A PNG has a checksum for each part, so every change is detected. A JPEG has none: truncation is detected, but a changed
byte can pass as wrong pixels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.errors import CorruptFileError, RunError
from rmrkd_cli.storage.regular_file import error_reason, open_regular, read_regular

# A file header can claim any size. Within these two limits, reading one image takes less than 1 GB: the bytes of its
# file and its decoded pixels (3 bytes each).
MAX_PIXELS = 1 << 27
_MAX_BYTES = 1 << 29
_MAX_TEXT_BYTES = 1 << 27  # of metadata and colour profile, unpacked; Pillow's own limit of 1 MB refuses real files
# Pillow knows dozens of formats, and starts a program for some of them (Ghostscript for EPS).
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
# Signature -> the marker that begins the pixel data, and the one that ends the file.
_MARKERS = {b"\x89PNG": (b"IDAT", b"IEND\xaeB`\x82"), b"\xff\xd8": (b"\xff\xda", b"\xff\xd9")}
_ORIENTATION, _ROTATED = 0x0112, range(5, 9)  # EXIF tag, and its values that exchange height and width
Picture = NDArray[np.uint8]


class Size(NamedTuple):
    height: int
    width: int


class LabelFormatError(RunError):
    """A readable label file that does not hold one 8-bit value per pixel.

    Attributes:
        channels: Values per pixel.
    """

    def __init__(self, message: str, hint: str = "", channels: int = 1) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, channels)
        self.channels = channels


class _DamageError(Exception):
    """The reason why the bytes of a file are not a usable image."""


def read_image(path: Path) -> Picture:
    """Return the pixels (H, W, 3) in BGR order, equal to those of `cv2.imread`.

    Raises:
        CorruptFileError: When the file is missing, damaged, or larger than `MAX_PIXELS`.
    """
    import cv2

    cv2.setNumThreads(0)  # the loader processes are the parallelism
    with _name_damage(path, "an image"):
        data = read_regular(path, _MAX_BYTES)
        with _open_image(data) as header:
            _bounded_size(header)
        try:  # `imread` fills the missing part of a truncated JPEG; `imdecode` refuses it
            image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise _DamageError(" ".join(str(error.err).split())) from error
        if image is None:
            _check_contents(data)  # gives a more precise reason
            raise _DamageError("its pixel data is damaged or incomplete")
    pixels: Picture = image
    return pixels


def read_labels(path: Path) -> Picture:
    """Return the values (H, W) as stored in the file; for a palette PNG these are the indices.

    Raises:
        CorruptFileError: As `read_image`.
        LabelFormatError: When the file does not hold one 8-bit value per pixel.
    """
    with _name_damage(path, "a label map"):
        data = read_regular(path, _MAX_BYTES)
        _check_contents(data)
        with _open_image(data) as image:
            channels, dtype, mode = *_pixel_type(image), image.mode
            if channels == 1 and dtype == np.uint8:
                labels: Picture = np.asarray(image)
                return labels
    raise LabelFormatError(
        f"`{path}` must hold one 8-bit value per pixel, found {channels} channel{'s' * (channels > 1)} of {dtype} "
        f"(mode {mode})",
        "write one class index per pixel instead of a colour" if channels > 1 else "save it as an 8-bit PNG",
        channels,
    )


def verify_image(path: Path) -> Size:
    """Check the structure of an image file and return its size as `read_image` would; PNG and JPEG are not decoded.

    Raises:
        CorruptFileError: As `read_image`.
    """
    with _name_damage(path, "an image"):
        return _check_contents(read_regular(path, _MAX_BYTES))


def header_size(path: Path) -> Size:
    """Return the size in the header of an image file, before its EXIF rotation, without reading the rest.

    Raises:
        CorruptFileError: When there is no valid header, or it claims more than `MAX_PIXELS`.
    """
    with _name_damage(path, "an image"), open_regular(path) as stream, _open_image(stream) as image:
        return _bounded_size(image)


def is_utf8_path(path: Path) -> bool:
    """Return whether a path is valid UTF-8; OpenCV crashes the process when it opens one that is not."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


@contextmanager
def _name_damage(path: Path, role: str) -> Iterator[None]:
    """Turn every error of reading and decoding into one that names the file."""
    try:
        yield
    except Exception as error:  # Pillow raises any kind of exception for a damaged file
        raise CorruptFileError(
            f"`{path}` cannot be read as {role}: {_damage_reason(error)}", "replace it by a fresh copy", str(path)
        ) from error


def _damage_reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image ({', '.join(_FORMATS)})"
    reason = (error_reason(error) if isinstance(error, OSError) else str(error)).strip() or type(error).__name__
    if chunk := re.search(r"checksum in b'(\w+)'", reason):
        return f"the checksum of its {chunk[1]} chunk is wrong"
    return reason


def _check_contents(data: bytes) -> Size:
    """Check the header, the end marker, and the checksums of a PNG; decode formats that have neither."""
    start, end = next((markers for signature, markers in _MARKERS.items() if data.startswith(signature)), (b"", b""))
    with _open_image(data) as image:
        size = _bounded_size(image)
        if end and data.rfind(end) < data.rfind(start):
            raise _DamageError(f"it is incomplete: the file ends after {len(data)} bytes, without an end marker")
        if image.format in ("JPEG", "MPO") and image.getexif().get(_ORIENTATION, 1) in _ROTATED:
            size = Size(size.width, size.height)
        image.verify() if end else image.load()
    return size


def _bounded_size(image: Any) -> Size:
    if image.height * image.width > MAX_PIXELS:
        raise _DamageError(f"its header claims {image.width}x{image.height} pixels, at most {MAX_PIXELS} are allowed")
    return Size(image.height, image.width)


def _open_image(source: bytes | IO[bytes]) -> Any:
    """Open an image with Pillow, without Pillow's own limit on pixels; `_bounded_size` applies ours."""
    from PIL import Image, PngImagePlugin

    if source == b"":
        raise _DamageError("the file is empty")
    if isinstance(source, bytes) and source.lstrip().startswith(b"<"):
        raise _DamageError("it holds text, not an image (a web page saved under this name?)")
    Image.MAX_IMAGE_PIXELS = None
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MAX_TEXT_BYTES
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)


def _pixel_type(image: Any) -> tuple[int, np.dtype[Any]]:
    """Return the channels and the type of the pixels, without decoding them."""
    from PIL import ImageMode

    mode = ImageMode.getmode(image.mode)
    return len(mode.bands), np.dtype(mode.typestr)
