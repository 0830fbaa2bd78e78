"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmrkd_cli.comparison.types import Group
from rmrkd_cli.report.figures.counts import MAX_NUMBERED, Matrix, shares
from rmrkd_cli.report.figures.style import CELL_TEXT, figure_style, new_figure, save
from rmrkd_cli.terminal.text import NONE, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHADE = (0x2A, 0x79, 0xBD)  # black and white text both have a contrast of 4.5 on it
_MAX_NAMED = 160  # classes whose names are written
_NUMBERED_CELL, _PLAIN_CELL = 0.3, 0.105  # inches


def draw_confusion(group: Group, classes: Sequence[str], path: Path) -> None:
    """Write the matrix with its title and scale.

    Raises:
        RunError: When the file cannot be written.
    """
    with figure_style():
        save(confusion_matrix(group, classes, standalone=True), path)


def confusion_matrix(group: Group, classes: Sequence[str], *, standalone: bool = False) -> Figure:
    """Return the matrix: rows are true classes, columns predictions. The shade is the square root of the row's share.

    Matrices of up to `MAX_NUMBERED` classes show each share in percent.

    Args:
        standalone: Draw a title, the colour scale and the names of many classes, which the report page leaves out.
    """
    assert group.matrix is not None
    share, count = shares(group.matrix), len(classes)
    numbered = count <= MAX_NUMBERED
    named = numbered or (standalone and count <= _MAX_NAMED)
    side = _NUMBERED_CELL * count if numbered else min(16.0, max(7.0, _PLAIN_CELL * count)) if standalone else 4.0
    margin = 0.35 + 1.2 * named  # inches left of the matrix and below it
    width, height = margin + side + 1.2 * standalone + 0.1, margin + side + 0.3 * standalone + 0.1
    figure = new_figure(width, height, layout=None)  # constrained layout would measure every number
    panel = figure.add_axes((margin / width, margin / height, side / width, side / height))
    pixels = np.zeros((count, count, 4), np.uint8)
    pixels[..., :3] = SHADE
    pixels[..., 3] = np.rint(255 * np.sqrt(np.nan_to_num(share)))  # transparent where zero: for light and dark pages
    panel.imshow(pixels, interpolation="none")
    _label_axes(panel, [shorten(name, 16) for name in classes] if named else [], 8 if numbered else 5)
    if numbered:
        _write_shares(panel, share)
    if standalone:
        panel.set_title(f"{shorten(group.label, 50)}: share of each true class, %", loc="left")
        _add_scale(
            figure, ((margin + side + 0.3) / width, (margin + 0.2 * side) / height, 0.15 / width, 0.6 * side / height)
        )
    return figure


def _label_axes(panel: Any, names: Sequence[str], size: float) -> None:
    panel.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    panel.set_yticks(range(len(names)), names, fontsize=size)
    panel.tick_params(length=0)
    panel.set_xlabel("predicted class")
    panel.set_ylabel("true class")
    for side in ("top", "right"):
        panel.spines[side].set_visible(True)


def _write_shares(panel: Any, share: Matrix) -> None:
    for truth, guess in zip(*np.nonzero(np.isnan(share) | (share > 0)), strict=True):
        value = share[truth, guess]
        text = NONE if np.isnan(value) else "·" if value < 0.005 else f"{100 * value:.0f}"
        panel.text(guess, truth, text, ha="center", va="center", fontsize=7.5, color=CELL_TEXT, in_layout=False)


def _add_scale(figure: Figure, box: tuple[float, float, float, float]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    alpha = np.linspace(0, 1, 256)[:, None]
    colours = 1 - alpha + alpha * np.array(SHADE) / 255  # on white
    ticks = (0, 1, 5, 25, 50, 100)
    scale = figure.colorbar(
        ScalarMappable(cmap=ListedColormap(colours)), cax=figure.add_axes(box), ticks=np.sqrt(np.array(ticks) / 100)
    )
    scale.ax.set_yticklabels(map(str, ticks))
    scale.set_label("% of the true class")
