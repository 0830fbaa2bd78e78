"""Picture files, decoded only after they were found whole: decoders make up what is missing without saying so.

A PNG carries a checksum of every part, so any change is found. A JPEG has none: its structure and its end are checked
here, the decoder notices data that stops too early, and a changed byte in between may only show as wrong pixels.
"""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.errors import CorruptError, RunError
from rmrkd_cli.storage.regular_file import opened, read_regular, why

# A header can claim anything, and memory is taken by what it claims: with these two, one picture stays under 1 GB, its
# pixels (3 bytes each), and a decoder's copy of them or the bytes of its file together.
MOST_DECODED_PIXELS = 1 << 27
_MOST_BYTES = 1 << 29
# All that Pillow may take a file for: it knows dozens of formats, and of some starts a program (Ghostscript for EPS).
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the frame headers, which hold height and width
_JPEG_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)  # what ends a scan's data
_REPLACE = "replace it by a fresh copy"
Picture = NDArray[np.uint8]


class Size(NamedTuple):
    height: int
    width: int


class _Damage(Exception):
    """What is wrong with the bytes of a picture."""


def read_image(path: Path) -> Picture:
    """(H, W, 3), blue first, exactly as `cv2.imread` gives it.

    Raises:
        CorruptError: Naming the file, when it is missing, damaged, or larger than `MOST_DECODED_PIXELS`.
    """
    import cv2

    cv2.setNumThreads(0)  # the loader's processes are the parallelism
    image: Any
    try:
        if _is_sound_png(path) and is_readable_name(path):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)  # checks all checksums itself
        elif (data := _read_whole(path, "an image")[0]).startswith(_JPEG) or not is_readable_name(path):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # of a file it takes half for whole
        else:
            del data  # as large as its pixels where nothing is compressed
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _corrupt(path, "an image", " ".join(str(error.err).split())) from error
    if image is None:
        _read_whole(path, "an image")  # knows more of why
        raise _corrupt(path, "an image", "its data is damaged or ends too early")
    whole: Picture = image
    return whole


def is_readable_name(path: Path) -> bool:
    """Whether OpenCV can be given it: at a name of other bytes than UTF-8 it ends the whole process."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def read_labels(path: Path) -> Picture:
    """(H, W), the values as they are in the file; of a palette PNG the indices.

    Raises:
        CorruptError: As `read_image`.
        RunError: When it is no picture of one 8-bit value a pixel.
    """
    data, _ = _read_whole(path, "a label map")
    try:
        with _open(io.BytesIO(data)) as picture:  # its size was found to be bounded
            mode: str = picture.mode
            shape, dtype = _form(picture)
            right = len(shape) == 2 and dtype == np.uint8
            labels: Picture | None = np.asarray(picture) if right else None  # others may take far more memory
    except Exception as error:  # Pillow raises what it happens to meet in a damaged file
        raise _corrupt(path, "a label map", _pillow_said(error)) from error
    if labels is None:
        raise RunError(
            f"`{path}` must hold one 8-bit value a pixel, found {dtype} of shape {shape} (mode {mode})",
            "colours are no classes: write one class index a pixel" if len(shape) == 3 else "save it as an 8-bit PNG",
        )
    return labels


def verify(path: Path, what: str = "an image") -> Size:
    """The size in a picture's header, after its structure was checked; no pixel is decoded of a PNG or JPEG.

    Raises:
        CorruptError: As `read_image`.
    """
    return _read_whole(path, what)[1]


def header_size(path: Path) -> Size:
    """The size in a picture's header; nothing else is read.

    Raises:
        CorruptError: When there is none, or one larger than `MOST_DECODED_PIXELS`.
    """
    try:
        with opened(path) as stream, _open(io.BufferedReader(stream)) as picture:
            return _bounded(picture.height, picture.width)
    except _Damage as damage:
        raise _corrupt(path, "an image", str(damage)) from damage
    except Exception as error:  # Pillow raises what it happens to meet in a damaged file
        raise _corrupt(path, "an image", _pillow_said(error)) from error


def _is_sound_png(path: Path) -> bool:
    """By its first bytes, with a size that may be decoded."""
    try:
        with opened(path) as stream:
            start = stream.read(24)
    except OSError:
        return False
    size = _int(start[16:20]) * _int(start[20:24])
    return start.startswith(_PNG) and 0 < size <= MOST_DECODED_PIXELS


def _read_whole(path: Path, what: str) -> tuple[bytes, Size]:
    try:
        data = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise _corrupt(path, what, why(error)) from error
    try:
        size = _checked(data)
    except _Damage as damage:
        raise _corrupt(path, what, str(damage)) from damage
    return data, size


def _checked(data: bytes) -> Size:
    if not data:
        raise _Damage("the file is empty")
    if data.startswith(_PNG):
        return _check_png(data)
    if data.startswith(_JPEG):
        return _check_jpeg(data)
    return _check_other(data)


def _bounded(height: int, width: int) -> Size:
    if height * width > MOST_DECODED_PIXELS:
        raise _Damage(f"its header claims {width}x{height} pixels, at most {MOST_DECODED_PIXELS} are read")
    return Size(height, width)


def _check_png(data: bytes) -> Size:
    """Every chunk's checksum, up to the last chunk."""
    view, place, size, crc32 = memoryview(data), len(_PNG), None, zlib.crc32
    while place + 12 <= len(data):
        end = place + 8 + _int(view[place : place + 4])
        kind = data[place + 4 : place + 8]
        if end + 4 > len(data):
            break
        if crc32(view[place + 4 : end]) != _int(view[end : end + 4]):
            raise _Damage(f"the checksum of its part `{kind.decode('latin-1')}` at byte {place} is wrong")
        if size is None:
            if kind != b"IHDR":
                raise _Damage("it does not begin with a PNG header")
            size = _bounded(_int(view[place + 12 : place + 16]), _int(view[place + 8 : place + 12]))
        if kind == b"IEND":
            return size
        place = end + 4
    raise _Damage(f"it ends after {len(data)} bytes, before its last part")


def _check_jpeg(data: bytes) -> Size:
    """The chain of its segments up to the end marker."""
    place, size = 2, None
    while (found := _JPEG_MARKER.search(data, place)) is not None:
        marker, place = data[found.end() - 1], found.end()
        if marker == 0xD9:
            if size is None:
                raise _Damage("it has no frame")
            return size
        if marker in _JPEG_BARE:
            continue
        length = _int(data[place : place + 2])
        if length < 2 or place + length > len(data):
            break
        if marker in _JPEG_SIZES:
            size = _bounded(_int(data[place + 3 : place + 5]), _int(data[place + 5 : place + 7]))
        place += length
    raise _Damage(f"it ends after {len(data)} bytes, before its end marker")


def _check_other(data: bytes) -> Size:
    """Other formats are decoded once more, by the library that minds what is missing."""
    if data.lstrip()[:1] == b"<":
        raise _Damage("it holds text, not a picture (a web page that was saved under its name?)")
    try:
        with _open(io.BytesIO(data)) as picture:
            size = _bounded(picture.height, picture.width)
            picture.load()
    except _Damage:
        raise
    except Exception as error:  # Pillow raises what it happens to meet in a damaged file
        raise _Damage(_pillow_said(error)) from error
    return size


def _int(data: bytes | memoryview) -> int:
    return int.from_bytes(data, "big")


def _open(stream: IO[bytes]) -> Any:
    """A picture by Pillow, without its own bound on pixels; here every header is checked against ours."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return Image.open(stream, formats=_FORMATS)


def _form(picture: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that its pixels will have, of which none is decoded yet."""
    from PIL import ImageMode

    mode = ImageMode.getmode(picture.mode)
    bands = (len(mode.bands),) if len(mode.bands) > 1 else ()
    return (picture.height, picture.width, *bands), np.dtype(mode.typestr)


def _pillow_said(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return "it is no picture" if "identify" in told else (told or type(error).__name__).splitlines()[0]


def _corrupt(path: Path, what: str, why: str) -> CorruptError:
    return CorruptError(f"`{path}` cannot be read as {what}: {why}", _REPLACE, str(path))
