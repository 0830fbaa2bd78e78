"""One image with its truth, every prediction, and where two of them disagree, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.figures.canvas import drawing, new_figure, save
from rmrkd_cli.figures.maps import Image, Palette, disagreement, full_palette, numbered
from rmrkd_cli.pictures import Picture
from rmrkd_cli.wording import points, short

_COLUMNS, _WIDTH = 3, 3.2  # inches a panel


def draw_sheet(
    picture: Picture, palette: Palette, classes: Sequence[str], pair: tuple[str, str] | None, path: Path
) -> None:
    """Numbers in the maps are classes, named below.

    Args:
        pair: Labels of the two predictions whose disagreement is shown.

    Raises:
        RunError: When it cannot be written.
    """
    maps = {"truth": picture.truth, **{short(label, 30): guess for label, guess in picture.predictions.items()}}
    count = 1 + len(maps) + (pair is not None)
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    height, width = picture.truth.shape
    with drawing():
        figure = new_figure(_WIDTH * columns, (_WIDTH * height / width + 0.3) * rows + 0.6)
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for place in places:
            place.set_axis_off()
        _show(places[0], picture.image, "image")
        for place, (label, held) in zip(places[1:], maps.items(), strict=False):
            _show_map(place, held, label, palette)
        if pair is not None:
            first, second = (picture.predictions[label] for label in pair)
            marked = disagreement(picture.image, picture.truth, first, second)
            _show(places[count - 1], marked, f"{short(pair[0], 20)} ≠ {short(pair[1], 20)}")
        known = picture.choice.difference
        told = f"  ({points(known)} points of mean IoU)" if known is not None else ""
        figure.suptitle(f"{short(picture.name, 70)}{told}", fontsize=9, x=0.01, ha="left")
        figure.supxlabel(_names(maps.values(), classes, columns, pair), fontsize=7, x=0.01, ha="left")
        save(figure, path)


def _show(place: Any, picture: Image, title: str) -> None:
    place.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) < 400 else "antialiased")
    place.set_title(title, fontsize=8.5, pad=3)


def _show_map(place: Any, held: Image, label: str, palette: Palette) -> None:
    _show(place, full_palette(palette)[held], label)
    for k, x, y, dark in numbered(held, palette):
        colour = "white" if dark else "black"
        place.text(x, y, str(k), ha="center", va="center", fontsize=7, fontweight="bold", color=colour)


def _names(maps: Any, classes: Sequence[str], columns: int, pair: tuple[str, str] | None) -> str:
    import textwrap

    seen = sorted({int(k) for held in maps for k in np.unique(held)} - {255})
    text = "  ".join(f"{k} {short(classes[k], 24)}" for k in seen if k < len(classes))
    if pair is not None:
        first, second = (short(label, 20) for label in pair)
        text += f".  Disagreement: full where {second} is right, striped where {first} is, dotted where neither is."
    return "\n".join(textwrap.wrap(text, 62 * columns))
