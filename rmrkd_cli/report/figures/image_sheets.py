"""One image with its truth, every prediction, and where two of them disagree, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.report.figures.class_maps import Image, Palette, disagreement, full_palette, numbered, reduced
from rmrkd_cli.report.figures.style import drawing, new_figure, save
from rmrkd_cli.report.image_selection import Picture
from rmrkd_cli.terminal.text import abbreviate_labels, points, short

_COLUMNS = 3
_WIDTH, _TITLE = 3.2, 0.24  # inches of a panel
_MARGIN = 0.02


def draw_sheet(
    picture: Picture, palette: Palette, classes: Sequence[str], pair: tuple[str, str] | None, path: Path
) -> None:
    """Numbers in the maps are classes, named below.

    Args:
        pair: Labels of the two predictions whose disagreement is shown.

    Raises:
        RunError: When it cannot be written.
    """
    titles = abbreviate_labels(picture.predictions, 30)
    maps = [("truth", picture.truth), *((titles[label], guess) for label, guess in picture.predictions.items())]
    count = 1 + len(maps) + (pair is not None)
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    height, width = picture.truth.shape
    names = _names([held for _, held in maps], classes, columns, pair and (titles[pair[0]], titles[pair[1]]))
    with drawing():
        below = 0.2 + 0.13 * (names.count("\n") + 1)
        tall = _WIDTH * height / width
        figure = new_figure(_WIDTH * columns, (tall + _TITLE) * rows + _TITLE + below, plain=True)
        places = _places(figure, count, columns, tall)
        _show(places[0], picture.image, "image")
        for place, (label, held) in zip(places[1:], maps, strict=False):
            _show_map(place, held, label, palette)
        if pair is not None:
            first, second = (reduced(picture.predictions[label]) for label in pair)
            marked = disagreement(reduced(picture.image), reduced(picture.truth), first, second)
            _show(places[count - 1], marked, " ≠ ".join(abbreviate_labels(pair, 20).values()))
        known = picture.choice.difference
        told = f"  ({points(known)} points of mean IoU)" if known is not None else ""
        tallest = figure.get_figheight()
        figure.text(_MARGIN / 2, 1 - 0.06 / tallest, f"{short(picture.name, 70)}{told}", fontsize=9, va="top")
        figure.text(_MARGIN / 2, (below - 0.1) / tallest, names, fontsize=7, va="top")
        save(figure, path)


def _places(figure: Any, count: int, columns: int, tall: float) -> list[Any]:
    """Axes of a panel each, row by row; placed by hand, which takes a third of the time."""
    top, places = figure.get_figheight() - _TITLE, []
    for number in range(count):
        row, column = divmod(number, columns)
        bottom = (top - (row + 1) * (tall + _TITLE)) / figure.get_figheight()
        gap = _MARGIN / columns
        place = figure.add_axes((column / columns + gap / 2, bottom, 1 / columns - gap, tall / figure.get_figheight()))
        place.set_axis_off()
        places.append(place)
    return places


def _show(place: Any, picture: Image, title: str) -> None:
    picture = reduced(picture)
    place.imshow(picture, aspect="auto", interpolation="nearest" if max(picture.shape[:2]) < 400 else "antialiased")
    place.set_title(title, fontsize=8.5, pad=3)


def _show_map(place: Any, held: Image, label: str, palette: Palette) -> None:
    _show(place, full_palette(palette)[reduced(held)], label)
    for k, x, y, dark in numbered(reduced(held), palette):
        colour = "white" if dark else "black"
        place.text(x, y, str(k), ha="center", va="center", fontsize=7, fontweight="bold", color=colour)


def _names(maps: Any, classes: Sequence[str], columns: int, pair: tuple[str, str] | None) -> str:
    import textwrap

    seen = sorted({int(k) for held in maps for k in np.unique(held)} - {255})
    text = "  ".join(f"{k} {short(classes[k], 24)}" for k in seen if k < len(classes))
    if pair is not None:
        first, second = pair
        text += f".  Disagreement: full where {second} is right, striped where {first} is, dotted where neither is."
    return "\n".join(textwrap.wrap(text, 62 * columns))
