"""Read from an image file how its values are stored: bits, kind of number, bands, without decoding it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from rmrkd_cli.data.tiff_header import FLOAT, SIGNED, UNSIGNED, TiffHeader, is_tiff, read_tiff_header

_PNG_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> values per pixel; 3 is an index into a palette
_PNG_BITS = (1, 2, 4, 8, 16)
_JPEG_BITS = range(2, 17)
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without contents
_CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000: start, then the sizes
_PPM_HEADER = re.compile(rb"P([2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
_TIFF_KINDS = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "float", 4: "unsigned"}  # 4: no kind is declared
_TYPES = {"unsigned": "uint", "signed": "int", "float": "float"}
_NAMES = {"unsigned": "integers", "signed": "signed integers", "float": "floats"}


@dataclass(frozen=True)
class SampleFormat:
    """How the values of an image are stored.

    Attributes:
        file_type: "PNG", "JPEG", "JPEG 2000", "PPM" or "TIFF".
        bits: Of a value.
        bands: Values per pixel.
        kind: "unsigned", "signed", "float" or another kind of number.
        size: (height, width).
        declared_max: The value of white, where the file states it.
        is_text: The values are written as decimal numbers.
        tiff: The tags of a TIFF file.
    """

    file_type: str
    bits: int
    bands: int
    kind: str = "unsigned"
    size: tuple[int, int] = (0, 0)
    declared_max: int | None = None
    is_text: bool = False
    tiff: TiffHeader | None = None

    @property
    def is_deep(self) -> bool:
        """Whether the values are anything but unsigned integers of up to 8 bits."""
        return self.kind != "unsigned" or self.bits > 8

    @property
    def type_name(self) -> str:
        """Return the name of the type of a value, such as "uint16"."""
        return f"{_TYPES.get(self.kind, self.kind)}{self.bits}"

    def describe(self) -> str:
        """Return bits and kind in words, such as "16-bit integers"."""
        return f"{self.bits}-bit {_NAMES.get(self.kind, 'numbers of an unknown kind')}"


def read_format(data: bytes) -> SampleFormat | None:
    """Return how a PNG, JPEG, JPEG 2000, PPM or TIFF file stores its values; None for others and for bad headers."""
    try:
        if data.startswith(b"\x89PNG"):
            return _read_png(data)
        if data.startswith(b"\xff\xd8"):
            return _read_jpeg(data)
        if is_tiff(data):
            return _read_tiff(data)
        if data[:1] == b"P" and data[1:2] in b"2356":
            return _read_ppm(data)
        if data[:4] == _CODESTREAM or data[4:8] == b"jP  ":
            return _read_jpeg2000(data)
    except (struct.error, IndexError):
        pass
    return None


def _read_png(data: bytes) -> SampleFormat | None:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if bits not in _PNG_BITS:
        return None
    return SampleFormat("PNG", bits, _PNG_BANDS.get(colour, 1), size=(height, width))


def _read_jpeg(data: bytes) -> SampleFormat | None:
    """Return the format in the frame header, which is behind any number of other parts."""
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif marker in _JPEG_ALONE:
            place += 2
        elif marker in _JPEG_FRAMES:
            bits, height, width, bands = struct.unpack_from(">BHHB", data, place + 4)
            return SampleFormat("JPEG", bits, bands, size=(height, width)) if bits in _JPEG_BITS else None
        else:
            place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _read_jpeg2000(data: bytes) -> SampleFormat | None:
    start = data.find(_CODESTREAM)
    if start < 0:
        return None
    width, height, left, top = struct.unpack_from(">IIII", data, start + 8)
    (bands,) = struct.unpack_from(">H", data, start + 40)
    depths = [data[start + 42 + 3 * band] for band in range(min(bands, 8))]
    kind = "signed" if any(depth & 0x80 for depth in depths) else "unsigned"
    bits = max((depth & 0x7F) + 1 for depth in depths) if depths else 8
    return SampleFormat("JPEG 2000", bits, bands, kind, (height - top, width - left))


def _read_ppm(data: bytes) -> SampleFormat | None:
    header = _PPM_HEADER.match(data[:4096])
    if header is None:
        return None
    number, width, height, largest = (int(part[:9]) for part in header.groups())
    bands = 3 if number in (3, 6) else 1
    size = (height, width)
    return SampleFormat("PPM", largest.bit_length(), bands, size=size, declared_max=largest, is_text=number in (2, 3))


def _read_tiff(data: bytes) -> SampleFormat | None:
    header = read_tiff_header(data)
    if header is None:
        return None
    kind = _TIFF_KINDS.get(header.sample_format, "other")
    return SampleFormat("TIFF", header.bits, header.bands, kind, (header.height, header.width), tiff=header)
