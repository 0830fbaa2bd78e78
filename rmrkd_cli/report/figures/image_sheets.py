"""One image with its labels, every prediction, and where two predictions differ, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.report.figures.class_maps import (
    WIDEST,
    Image,
    Palette,
    difference_overlay,
    full_palette,
    label_positions,
    shrink,
)
from rmrkd_cli.report.figures.style import figure_style, new_figure, save
from rmrkd_cli.report.image_selection import ReportImage
from rmrkd_cli.terminal.text import abbreviate_labels, format_points, shorten, typeset_minus

_COLUMNS = 3
_WIDTH, _TITLE = 3.2, 0.24  # inches of a panel
_MARGIN = 0.02


def draw_sheet(
    image: ReportImage, palette: Palette, classes: Sequence[str], pair: tuple[str, str] | None, path: Path
) -> None:
    """Write the sheet; the names of the numbered classes are below the panels.

    Args:
        pair: Labels of the two predictions whose difference is shown.

    Raises:
        RunError: When the file cannot be written.
    """
    titles = abbreviate_labels(image.predictions, 30)
    maps = [("truth", image.truth), *((titles[label], part) for label, part in image.predictions.items())]
    count = 1 + len(maps) + (pair is not None)
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    height, width = image.truth.shape
    key = _key([part for _, part in maps], classes, columns, pair and (titles[pair[0]], titles[pair[1]]))
    with figure_style():
        below = 0.2 + 0.13 * (key.count("\n") + 1)
        panel_height = _WIDTH * height / width
        total = (panel_height + _TITLE) * rows + _TITLE + below
        figure = new_figure(_WIDTH * columns, total, layout=None)
        axes = _add_axes(figure, count, columns, panel_height)
        _show(axes[0], image.image, "image")
        for ax, (title, part) in zip(axes[1:], maps, strict=False):
            _show_map(ax, part, title, palette)
        if pair is not None:
            shrunk = (
                shrink(part, WIDEST)
                for part in (image.image, image.truth, *(image.predictions[label] for label in pair))
            )
            _show(axes[count - 1], difference_overlay(*shrunk), " ≠ ".join(abbreviate_labels(pair, 20).values()))
        title = shorten(image.name, 70)
        if image.choice.difference is not None:
            title += f"  ({typeset_minus(format_points(image.choice.difference))} points of mean IoU)"
        figure.text(_MARGIN / 2, 1 - 0.06 / total, title, fontsize=9, va="top")
        figure.text(_MARGIN / 2, (below - 0.1) / total, key, fontsize=7, va="top")
        save(figure, path)


def _add_axes(figure: Any, count: int, columns: int, panel_height: float) -> list[Any]:
    """Return the axes of the panels, row by row. Constrained layout would take three times as long."""
    total = figure.get_figheight()
    axes = []
    for number in range(count):
        row, column = divmod(number, columns)
        bottom = (total - _TITLE - (row + 1) * (panel_height + _TITLE)) / total
        gap = _MARGIN / columns
        ax = figure.add_axes((column / columns + gap / 2, bottom, 1 / columns - gap, panel_height / total))
        ax.set_axis_off()
        axes.append(ax)
    return axes


def _show(ax: Any, image: Image, title: str) -> None:
    image = shrink(image, WIDEST)
    ax.imshow(image, aspect="auto", interpolation="nearest" if max(image.shape[:2]) < 400 else "antialiased")
    ax.set_title(title, fontsize=8.5, pad=3)


def _show_map(ax: Any, classes: Image, title: str, palette: Palette) -> None:
    classes = shrink(classes, WIDEST)
    _show(ax, full_palette(palette)[classes], title)
    for k, x, y, dark in label_positions(classes, palette):
        colour = "white" if dark else "black"
        ax.text(x, y, str(k), ha="center", va="center", fontsize=7, fontweight="bold", color=colour)


def _key(maps: Sequence[Image], classes: Sequence[str], columns: int, pair: tuple[str, str] | None) -> str:
    seen = sorted({int(k) for part in maps for k in np.unique(part)} - {255})
    text = "  ".join(f"{k} {shorten(classes[k], 24)}" for k in seen if k < len(classes))
    if pair is not None:
        text += f".  Differences: solid where only {pair[1]} is correct, striped where only {pair[0]} is, dotted where "
        text += "neither is."
    return "\n".join(textwrap.wrap(text, 62 * columns))
