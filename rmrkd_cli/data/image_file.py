"""Open image files safely: limits, structure, checksums, and errors that name the file.

A PNG has a checksum for each part, so every change is detected. A JPEG has none: truncation is detected, but a changed
byte can pass as wrong pixels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.deep_image import UnsupportedFormatError
from rmrkd_cli.data.source_file import SourceFile
from rmrkd_cli.errors import CorruptFileError, RmrkdError
from rmrkd_cli.storage.regular_file import error_reason

# A file header can claim any size. Within these two limits, reading one image takes less than 1 GB: the bytes of its
# file and its decoded pixels (3 bytes each). Values of more than 8 bits may take another 1 GB.
MAX_PIXELS = 1 << 27
MAX_BYTES = 1 << 29
_MAX_TEXT_BYTES = 1 << 27  # of metadata and colour profile, unpacked; Pillow's own limit of 1 MB refuses real files
# Pillow knows dozens of formats, and starts a program for some of them (Ghostscript for EPS).
FIX_FORMAT = "convert it to PNG, or to JPEG"
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
# Signature -> the marker that begins the pixel data, and the one that ends the file.
_MARKERS = {b"\x89PNG": (b"IDAT", b"IEND\xaeB`\x82"), b"\xff\xd8": (b"\xff\xda", b"\xff\xd9")}
_ORIENTATION, _ROTATED = 0x0112, range(5, 9)  # EXIF tag, and its values that exchange height and width
Picture = NDArray[np.uint8]


class Size(NamedTuple):
    height: int
    width: int


class ImageFormatError(RmrkdError):
    """An intact image with values beyond 8 bits and no `data.max_value`, or with values that are not supported.

    Attributes:
        path: The file.
        suggested: The likely `data.max_value`; None where it is no remedy.
    """

    def __init__(self, message: str, hint: str = "", path: str = "", suggested: float | None = None) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, path, suggested)
        self.path, self.suggested = path, suggested


class DamageError(Exception):
    """The reason why the bytes of a file are not a usable image."""


@contextmanager
def name_problem(path: SourceFile, role: str) -> Iterator[None]:
    """Turn every error of reading and decoding into one that names the file."""
    try:
        yield
    except RmrkdError:
        raise
    except UnsupportedFormatError as error:
        raise ImageFormatError(f"`{path}` {error.text}", error.hint, str(path)) from error
    except Exception as error:  # Pillow raises any kind of exception for a damaged file
        raise CorruptFileError(
            f"`{path}` cannot be read as {role}: {_damage_reason(error)}", "replace it by a fresh copy", str(path)
        ) from error


def _damage_reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image ({', '.join(FORMATS)})"
    reason = (error_reason(error) if isinstance(error, OSError) else str(error)).strip() or type(error).__name__
    if chunk := re.search(r"checksum in b'(\w+)'", reason):
        return f"the checksum of its {chunk[1]} chunk is wrong"
    return reason


def check_contents(data: bytes) -> Size:
    """Check the header, the end marker, and the checksums of a PNG; decode formats that have neither."""
    start, end = next((markers for signature, markers in _MARKERS.items() if data.startswith(signature)), (b"", b""))
    with open_image(data) as image:
        size = bounded_size(image)
        if end and data.rfind(end) < data.rfind(start):
            raise DamageError(f"it is incomplete: the file ends after {len(data)} bytes, without an end marker")
        if image.format in ("JPEG", "MPO") and image.getexif().get(_ORIENTATION, 1) in _ROTATED:
            size = Size(size.width, size.height)
        image.verify() if end else image.load()
    return size


def bounded_size(image: Any) -> Size:
    return bounded(image.height, image.width)


def bounded(height: int, width: int) -> Size:
    if height * width > MAX_PIXELS:
        raise DamageError(f"its header claims {width}x{height} pixels, at most {MAX_PIXELS} are allowed")
    return Size(height, width)


def open_image(source: bytes | IO[bytes]) -> Any:
    """Open an image with Pillow, without Pillow's own limit on pixels; `bounded_size` applies ours."""
    from PIL import Image, PngImagePlugin

    if source == b"":
        raise DamageError("the file is empty")
    if isinstance(source, bytes) and source.lstrip().startswith(b"<"):
        raise DamageError("it holds text, not an image (a web page saved under this name?)")
    Image.MAX_IMAGE_PIXELS = None
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MAX_TEXT_BYTES
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
