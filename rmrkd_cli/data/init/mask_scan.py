"""Read the values and colours in masks, and write label maps of class indices from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.file_types import lossy_type
from rmrkd_cli.data.image_file import MAX_BYTES, Picture, check_contents, name_problem, open_image
from rmrkd_cli.data.init.class_names import Colour
from rmrkd_cli.data.label_histogram import count_values
from rmrkd_cli.data.label_io import COLOURS, LOSSY, LabelFormatError, fix_lossy, read_labels
from rmrkd_cli.data.source_file import read_source
from rmrkd_cli.errors import RunError

MAX_READ = 200  # masks; all are read where there are no more
_SHOWN = 3  # colours in a message


@dataclass
class MaskValues:
    """What masks hold.

    Attributes:
        read, total: Masks that were read, and all of them.
        values: Value -> masks that have it, of masks with one value per pixel.
        colours: Colour -> masks that have it, of masks of colours, and of palette images.
        coloured: Masks that hold colours, as opposed to values; palette images hold values.
        palette: Value -> colour, of palette images; empty if they disagree.
    """

    read: int = 0
    total: int = 0
    values: Counter[int] = field(default_factory=Counter)
    colours: Counter[Colour] = field(default_factory=Counter)
    coloured: int = 0
    palette: dict[int, Colour] = field(default_factory=dict)


def scan_masks(paths: Sequence[Path], label_suffix: str) -> MaskValues:
    """Return the values in up to `MAX_READ` masks, evenly spread; in all of them if the first ones hold colours.

    Raises:
        RmrkdError: A mask cannot be read, or its format does not keep values.
    """
    spread = list(paths)
    if len(paths) > MAX_READ:
        spread = [paths[round(number * (len(paths) - 1) / (MAX_READ - 1))] for number in range(MAX_READ)]
    found, agree = MaskValues(total=len(paths)), True
    for path in spread:
        agree &= _scan_mask(path, label_suffix, found)
        found.read += 1
    found.palette = found.palette if agree else {}
    if found.coloured and len(spread) < len(paths):  # each colour becomes a class, so none may be missed
        for path in sorted(set(paths).difference(spread)):
            _scan_mask(path, label_suffix, found)
            found.read += 1
    return found


def _scan_mask(path: Path, label_suffix: str, found: MaskValues) -> bool:
    """Add what a mask holds; return whether its palette agrees with those before."""
    try:
        labels = read_labels(path)
    except LabelFormatError as error:
        if error.kind == LOSSY:
            raise LabelFormatError(error.message, fix_lossy(path, label_suffix), LOSSY) from error
        if error.kind != COLOURS:
            raise
        found.coloured += 1
        found.colours.update(_unpack(code) for code in np.unique(_packed(read_colours(path))))
        return True
    values = np.flatnonzero(count_values(labels)).tolist()
    found.values.update(values)
    palette = _palette(path)
    found.colours.update(palette.get(value, (value, value, value)) for value in values)
    used = {value: palette[value] for value in values if value in palette}
    agrees = all(found.palette.get(value, colour) == colour for value, colour in used.items())
    found.palette.update(used)
    return agrees


def read_colours(path: Path) -> Picture:
    """Return the colours (H, W, 3) of a mask, RGB, also of a palette image.

    Raises:
        CorruptFileError: The file is damaged.
        LabelFormatError: Its compression changes colours.
    """
    with name_problem(path, "a label map"):
        data = read_source(path, MAX_BYTES)
        if lossy := lossy_type(data):
            raise LabelFormatError(
                f"`{path}` is stored as {lossy}, which does not keep colours", fix_lossy(path), LOSSY
            )
        check_contents(data)
        with open_image(data) as image:
            return np.asarray(image.convert("RGB"))


def indices_of_colours(classes: Mapping[Colour, int], path: Path) -> Picture:
    """Return the class index (H, W) of each pixel of a mask of colours.

    Raises:
        RunError: The mask has a colour that is none of a class; or it cannot be read.
    """
    packed = _packed(read_colours(path))
    known = np.array(sorted(_pack(colour) for colour in classes), np.uint32)
    indices = np.array([classes[_unpack(code)] for code in known], np.uint8)
    places = np.minimum(np.searchsorted(known, packed), len(known) - 1)
    if (known[places] != packed).any():
        unknown, counts = np.unique(packed[known[places] != packed], return_counts=True)
        most = counts.argsort()[::-1][:_SHOWN]
        shown = ", ".join(f"{_unpack(unknown[place])} ({counts[place]} pixels)" for place in most)
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise RunError(f"`{path}` has colours of no class: {shown}{more}")
    return np.asarray(indices[places])


def indices_of_values(classes: Mapping[int, int], path: Path) -> Picture:
    """Return the class index (H, W) of each pixel of a mask of other values, such as 0 and 255.

    Raises:
        RunError: As `indices_of_colours`.
    """
    labels = read_labels(path)
    unknown = sorted(set(np.flatnonzero(count_values(labels)).tolist()) - set(classes))
    if unknown:
        raise RunError(f"`{path}` has values of no class: {', '.join(map(str, unknown[:_SHOWN]))}")
    table = np.array([classes.get(value, 0) for value in range(256)], np.uint8)
    return np.asarray(table[labels])


def _palette(path: Path) -> dict[int, Colour]:
    """Return the colours of a palette image; empty for others."""
    with name_problem(path, "a label map"), open_image(read_source(path, MAX_BYTES)) as image:
        if image.mode != "P":
            return {}
        flat = image.getpalette("RGB") or []
        return {place // 3: (flat[place], flat[place + 1], flat[place + 2]) for place in range(0, len(flat) - 2, 3)}


def _packed(pixels: Picture) -> NDArray[np.uint32]:
    wide = pixels.astype(np.uint32)
    packed = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return packed.astype(np.uint32, copy=False)


def _pack(colour: Colour) -> int:
    return (colour[0] << 16) | (colour[1] << 8) | colour[2]


def _unpack(code: int) -> Colour:
    return int(code) >> 16 & 255, int(code) >> 8 & 255, int(code) & 255
