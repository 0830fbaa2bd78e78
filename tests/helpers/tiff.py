"""Write TIFF files with any tags; Pillow and OpenCV write only some combinations."""

from __future__ import annotations

import struct

import numpy as np

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_KINDS = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}


def tiff(
    values: np.ndarray,
    *,
    bits: int = 0,
    photometric: int | None = None,
    extra: tuple[int, ...] = (),
    planar: bool = False,
    order: str = "<",
    compression: int = 1,
) -> bytes:
    """Return a TIFF file of values (H, W) or (H, W, bands), without compression.

    Args:
        bits: Of a value, packed; 0 for those of the array's type.
        photometric: The tag; None for grey or RGB by the number of bands.
        extra: The tag ExtraSamples: 0 for a band without meaning, 1 and 2 for transparency.
        planar: Store each band by itself.
        order: "<" or ">", the byte order.
        compression: The tag only.
    """
    height, width = values.shape[:2]
    bands = 1 if values.ndim == 2 else values.shape[2]
    planes = np.moveaxis(values, 2, 0) if planar else [values]
    strips = [
        b"".join(packed_rows(plane, bits)) if bits else plane.astype(values.dtype.newbyteorder(order)).tobytes()
        for plane in planes
    ]
    if photometric is None:
        photometric = 2 if bands > 2 else 1
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits or values.dtype.itemsize * 8] * bands),
        259: ("H", [compression]), 262: ("H", [photometric]), 273: ("I", [0] * len(strips)), 277: ("H", [bands]),
        278: ("I", [height]), 279: ("I", [len(strip) for strip in strips]), 284: ("H", [2 if planar else 1]),
        339: ("H", [_KINDS[values.dtype.kind]] * bands),
    }  # fmt: skip
    if extra:
        tags[338] = ("H", list(extra))
    place = 8 + 2 + 12 * len(tags) + 4
    outside = {tag: 0 for tag, (code, numbers) in tags.items() if struct.calcsize(code) * len(numbers) > 4}
    for tag in sorted(outside):
        outside[tag] = place
        place += struct.calcsize(tags[tag][0]) * len(tags[tag][1])
    tags[273] = ("I", [place + sum(map(len, strips[:number])) for number in range(len(strips))])
    entries, contents = b"", b""
    for tag, (code, numbers) in sorted(tags.items()):
        data = struct.pack(order + code * len(numbers), *numbers)
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[code], len(numbers))
        entries += struct.pack(f"{order}I", outside[tag]) if tag in outside else data.ljust(4, b"\0")
        contents += data if tag in outside else b""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + contents + b"".join(strips)


def packed_rows(values: np.ndarray, bits: int) -> list[bytes]:
    """Return rows of values without gaps between them, each row filled up to a byte."""
    rows = []
    for row in values.reshape(len(values), -1):
        digits = "".join(f"{int(value):0{bits}b}" for value in row)
        digits = digits.ljust(-(-len(digits) // 8) * 8, "0")
        rows.append(int(digits, 2).to_bytes(len(digits) // 8, "big"))
    return rows
