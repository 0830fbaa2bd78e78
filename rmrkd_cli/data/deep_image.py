"""Images with other values than 8-bit integers, and TIFF files whose bands OpenCV misreads.

The rule for every file type and every command:

- Integers of up to 8 bits are used as they are; the file's own range is 0..255.
- All other values need `data.max_value`, the value of white: `max_value` becomes 255, 0 stays 0, values in between are
  scaled and rounded, values outside are clipped, and NaN becomes 0. Without it the image is refused.
- One band is grey, three are red, green and blue. One further band is not used, whether it is declared as transparency
  or not. Other numbers of bands are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.opencv import decode
from rmrkd_cli.data.sample_format import SampleFormat
from rmrkd_cli.data.tiff_header import GREY, GREY_INVERTED, RGB, TiffHeader

_MAX_DECODED = 1 << 30  # bytes
_TIFF_BITS = {"unsigned": (10, 12, 14, 16, 32, 64), "signed": (8, 16, 32, 64), "float": (32, 64)}
_SUPPORTED = {  # file type -> what is supported beyond 8 bits, for messages
    "TIFF": "integers of 10, 12, 14, 16, 32 or 64 bits and floats of 32 or 64 bits, in 1, 3 or 4 interleaved bands",
    "JPEG 2000": "unsigned integers of up to 16 bits",
    "PPM": "binary files",
    "JPEG": "8 bits",
}
_CONVERT = "convert it to a TIFF or PNG with 8- or 16-bit integers in one or three bands"
_INTERLEAVE = "interleave the bands, such as `gdal_translate -co INTERLEAVE=PIXEL IN.tif OUT.tif`"
_BLOCK = 1 << 20  # values that are scaled at a time
Values = NDArray[Any]
Picture = NDArray[np.uint8]


class UnsupportedFormatError(Exception):
    """An intact image whose values are stored in a way that is not read.

    Args:
        text: The problem; a sentence whose subject is the file.
        hint: How to fix it.
    """

    def __init__(self, text: str, hint: str = _CONVERT) -> None:
        super().__init__(text, hint)
        self.text, self.hint = text, hint


class ValueRange(NamedTuple):
    """The values of an image beyond 8 bits, without a band that is not used.

    Attributes:
        format: In words, such as "16-bit integers".
        smallest, largest: Of the finite values; 0 if there are none.
        suggested: The likely value of white.
        max_value: The value of white; None if it is not known, and then `above` is 0.
        size: The number of values.
        above, below, nan: The shares of values above `max_value`, of values below 0, and of NaN.
    """

    format: str
    smallest: float
    largest: float
    suggested: float
    max_value: float | None
    size: int
    above: float
    below: float
    nan: float


def describe_clipping(ranges: Sequence[ValueRange], owner: str = "its") -> dict[str, str]:
    """Return for "above", "below" and "nan" which share of the values of images is not kept; without those at 0.

    Each text follows "has" or "have".
    """
    count = sum(one.size for one in ranges) or 1
    above, below, nan = (
        100 * sum(one.size * getattr(one, name) for one in ranges) / count for name in ("above", "below", "nan")
    )
    texts: dict[str, str] = {}
    if above and (white := ranges[0].max_value) is not None:
        largest = max(one.largest for one in ranges)
        texts["above"] = (
            f"{above:.3g} % of {owner} values above `data.max_value` ({white:g}): they become white; the largest is "
            f"{largest if largest > white else np.inf:g}"
        )
    if below:
        smallest = min(one.smallest for one in ranges)
        texts["below"] = (
            f"{below:.3g} % of {owner} values below 0: they are read as 0; the smallest is "
            f"{smallest if smallest < 0 else -np.inf:g}"
        )
    if nan:
        texts["nan"] = f"{nan:.3g} % of {owner} values NaN (not a number): they are read as 0"
    return texts


def check_bands(form: SampleFormat) -> None:
    """Raise UnsupportedFormatError unless the bands are grey or RGB, with at most one more."""
    if form.bands > 4 or (form.tiff is not None and form.tiff.photometric == RGB and form.bands < 3):
        raise UnsupportedFormatError(
            f"has {form.bands} bands; 1 (grey) or 3 (red, green, blue) are read, and one more is not used",
            "write the three bands to use into a new file, such as `gdal_translate -b 1 -b 2 -b 3 IN.tif OUT.tif`",
        )


def unused_band(form: SampleFormat | None) -> str:
    """Return which band of a TIFF or JPEG 2000 file is not used, or an empty text."""
    if form is None or form.file_type not in ("TIFF", "JPEG 2000") or form.bands not in (2, 4):
        return ""
    if form.tiff is not None and not form.tiff.is_grey_or_rgb:
        return ""
    return f"has {form.bands} bands, and the last one is not used"


def is_misread(header: TiffHeader) -> bool:
    """Return whether libtiff would mix bands of 8 bits, or use only the first of several."""
    return header.is_grey_or_rgb and (header.has_extra_bands or (header.bands > 2 and header.photometric != RGB))


def decode_values(data: bytes, form: SampleFormat) -> Values:
    """Return the values of an image beyond 8 bits: (H, W) or (H, W, 3 or 4) with blue first.

    Raises:
        UnsupportedFormatError: When this way of storing values is not supported.
        ValueError: When the file is damaged, or takes more than 1 GiB of memory.
    """
    import cv2

    header = form.tiff
    is_planar = header is not None and header.planar
    if not _is_supported(form):
        raise UnsupportedFormatError(
            f"holds {form.describe()} in {form.bands} band{'s' * (form.bands > 1)}"
            f"{', stored one after the other' * is_planar}; "
            f"of {form.file_type} files, {_SUPPORTED.get(form.file_type, '8 bits')} are supported",
            _INTERLEAVE if is_planar else _CONVERT,
        )
    bytes_needed = form.size[0] * form.size[1] * form.bands * -(-form.bits // 8)
    if bytes_needed > _MAX_DECODED:
        raise ValueError(f"its values would take {bytes_needed >> 20} MiB, at most {_MAX_DECODED >> 20} are allowed")
    if header is not None:
        data = header.without_meaning(data) if is_misread(header) else data
        flags = cv2.IMREAD_UNCHANGED  # rotates a TIFF, and no other file
    else:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    values: Values | None = decode(data, flags)
    if values is None:
        raise ValueError("its pixel data is damaged or incomplete")
    if header is not None and form.bits in (10, 12, 14):
        return np.right_shift(values, 16 - form.bits)  # OpenCV moves them to the upper bits
    return values


def measure_values(values: Values, form: SampleFormat, max_value: float | None) -> ValueRange:
    """Return the range of the values of an image."""
    used = values[..., :3] if values.ndim == 3 else values
    finite = used[np.isfinite(used)] if form.kind == "float" else used
    smallest, largest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return ValueRange(
        form.describe(), smallest, largest, suggest_max_value(largest, form), max_value, used.size,
        above=float((used > max_value).mean()) if max_value is not None else 0.0,
        below=float((used < 0).mean()) if form.kind != "unsigned" else 0.0,
        nan=float(np.isnan(used).mean()) if form.kind == "float" else 0.0,
    )  # fmt: skip


def suggest_max_value(largest: float, form: SampleFormat) -> float:
    """Return the likely value of white: what the file declares, or the end of a usual range."""
    if form.declared_max is not None:
        return form.declared_max
    if form.kind == "unsigned" and form.bits < 16:
        return (1 << form.bits) - 1
    if form.kind == "float" and largest <= 1:
        return 1
    if 0 < largest <= 65_535:
        usual = max(255, (1 << int(np.ceil(largest)).bit_length()) - 1)
        return min(usual, (1 << form.bits - 1) - 1) if form.kind == "signed" else usual
    return max(largest, 1)


def to_picture(values: Values, form: SampleFormat, max_value: float) -> Picture:
    """Return the pixels (H, W, 3), blue first: 0..`max_value` becomes 0..255."""
    import cv2

    if values.ndim == 3:
        values = values[..., :3]
    if values.dtype == np.uint16:  # a table gives the same numbers, faster
        scaled = _table(max_value)[values]
    else:
        scaled = np.empty(values.shape, np.uint8)
        rows = max(1, _BLOCK // max(1, values[0].size))
        for top in range(0, len(values), rows):
            scaled[top : top + rows] = _scale(values[top : top + rows], max_value)
    if form.tiff is not None and form.tiff.photometric == GREY_INVERTED and form.bits > 8:
        scaled = 255 - scaled
    picture: Picture = cv2.cvtColor(scaled, cv2.COLOR_GRAY2BGR) if scaled.ndim == 2 else np.ascontiguousarray(scaled)
    return picture


@lru_cache(maxsize=1)
def _table(max_value: float) -> Picture:
    return _scale(np.arange(1 << 16, dtype=np.uint16), max_value)


def _scale(values: Values, max_value: float) -> Picture:
    known = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=max_value, neginf=0.0)
    scaled: Picture = np.floor(np.clip(known, 0, max_value) * 255 / max_value + 0.5).astype(np.uint8)
    return scaled


def _is_supported(form: SampleFormat) -> bool:
    if form.tiff is None:
        return (
            form.file_type in ("PNG", "JPEG 2000", "PPM")
            and form.kind == "unsigned"
            and form.bits <= 16
            and (not form.is_text)
        )
    colours = (GREY_INVERTED, GREY) if form.bands == 1 else (GREY, RGB)
    return (
        form.bits in _TIFF_BITS.get(form.kind, ())
        and form.bands in (1, 3, 4)
        and form.tiff.photometric in colours
        and not form.tiff.planar
    )
