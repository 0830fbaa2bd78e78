"""Read the tags of a TIFF file that say how its pixels are stored, without decoding them.

Pillow opens only the combinations of tags that it can decode, so it cannot describe the others.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

GREY_INVERTED, GREY, RGB = 0, 1, 2  # values of `TiffHeader.photometric`
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # values of `TiffHeader.sample_format`
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 259, 262, 277
_PLANAR, _EXTRA, _FORMAT = 284, 338, 339
_UNUSED = 337  # a tag that no decoder needs; its number keeps the tags in order
_DEFAULTS = {_BITS: 1, _COMPRESSION: 1, _PHOTOMETRIC: GREY, _SAMPLES: 1, _PLANAR: 1, _FORMAT: UNSIGNED}
_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # field type -> its `struct` code; all integers
_MAX_VALUES = 64  # of a tag that is read; a strip table can have millions
_MAX_ENTRIES = 4096


@dataclass(frozen=True)
class TiffHeader:
    """How the pixels of the first page are stored.

    Attributes:
        bits: Of a value; the largest if bands differ.
        bands: Values per pixel.
        sample_format: `UNSIGNED`, `SIGNED`, `FLOAT`, or another number.
        photometric: `GREY_INVERTED` (0 is white), `GREY`, `RGB`, or another number of the standard.
        planar: Each band is stored by itself.
        compression: The number of the compression.
        places: Tag -> position of its entry, position of its values, and `struct` code of one value.
        order: `struct` code of the byte order.
    """

    width: int
    height: int
    bits: int
    bands: int
    sample_format: int
    photometric: int
    planar: bool
    compression: int
    places: Mapping[int, tuple[int, int, str]]
    order: str

    @property
    def has_extra_bands(self) -> bool:
        """Whether bands beyond the colours are declared."""
        return _EXTRA in self.places

    @property
    def is_grey_or_rgb(self) -> bool:
        return self.photometric in (GREY_INVERTED, GREY, RGB)

    def without_meaning(self, data: bytes) -> bytes:
        """Return the file with three or four bands declared as RGB, and no band as transparency.

        libtiff multiplies the colours by a band of transparency, and reads three bands of grey as one.
        """
        changed = bytearray(data)
        if _PHOTOMETRIC in self.places and self.bands > 2:
            _, position, code = self.places[_PHOTOMETRIC]
            struct.pack_into(self.order + code, changed, position, RGB)
        if _EXTRA in self.places:
            entry, _, _ = self.places[_EXTRA]
            struct.pack_into(f"{self.order}H", changed, entry, _UNUSED)
        return bytes(changed)


def is_tiff(data: bytes) -> bool:
    """Return whether the bytes begin as a TIFF or BigTIFF file."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff_header(data: bytes) -> TiffHeader | None:
    """Return the header of a TIFF file, or None if it is incomplete."""
    try:
        return _read(data)
    except (struct.error, KeyError, ValueError):
        return None


def _read(data: bytes) -> TiffHeader:
    order = "<" if data[:2] == b"II" else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    is_big = version == 43
    (first,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, first)
    if count > _MAX_ENTRIES:
        raise ValueError(f"{count} tags")
    values: dict[int, tuple[int, ...]] = {}
    places: dict[int, tuple[int, int, str]] = {}
    start, size, inline = (first + 8, 20, 8) if is_big else (first + 2, 12, 4)
    for number in range(count):
        entry = start + number * size
        tag, kind, length = struct.unpack_from(order + ("HHQ" if is_big else "HHI"), data, entry)
        if kind not in _CODES or not 0 < length <= _MAX_VALUES:
            continue
        code, place = _CODES[kind] * length, entry + size - inline
        if struct.calcsize(order + code) > inline:
            (place,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, place)
        values[tag], places[tag] = struct.unpack_from(order + code, data, place), (entry, place, _CODES[kind])
    one = {tag: max(values.get(tag, (default,))) for tag, default in _DEFAULTS.items()}
    return TiffHeader(
        width=values[_WIDTH][0], height=values[_HEIGHT][0], bits=one[_BITS], bands=one[_SAMPLES],
        sample_format=one[_FORMAT], photometric=one[_PHOTOMETRIC], planar=one[_PLANAR] == 2 and one[_SAMPLES] > 1,
        compression=one[_COMPRESSION], places=places, order=order,
    )  # fmt: skip
