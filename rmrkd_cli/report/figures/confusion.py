"""Confusion matrices as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.comparison.types import Group
from rmrkd_cli.report.figures.counts import MOST_NUMBERED, Matrix, shares
from rmrkd_cli.report.figures.style import drawing, new_figure, save
from rmrkd_cli.terminal.text import short

_MOST_NAMED = 160  # classes whose names are written
_ROW = 0.105  # inches a class, where only shades are shown


def draw_confusion(group: Group, classes: Sequence[str], path: Path) -> None:
    """Rows of truth as shares; figures in the cells of small matrices, the root of the share as shade.

    Raises:
        RunError: When it cannot be written.
    """
    assert group.matrix is not None
    part, count = shares(group.matrix), len(classes)
    small = count <= MOST_NUMBERED
    side = 0.36 * count if small else min(16.0, max(7.0, _ROW * count))
    with drawing():
        figure = new_figure(side + 2.2, side + 1.6)
        panel = figure.subplots()
        shown = panel.imshow(np.sqrt(part), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        _name_axes(panel, classes, small)
        if small:
            _write_figures(panel, part)
        panel.set_title(
            f"{short(group.label, 50)}: of each true class, the share predicted as each class, %", loc="left"
        )
        bar = figure.colorbar(shown, ax=panel, shrink=0.6, pad=0.02, ticks=np.sqrt([0, 0.01, 0.05, 0.25, 0.5, 1]))
        bar.ax.set_yticklabels(["0", "1", "5", "25", "50", "100"])
        bar.set_label("% of the true class")
        save(figure, path)


def _name_axes(panel: Any, classes: Sequence[str], small: bool) -> None:
    if len(classes) <= _MOST_NAMED:
        names = [short(kind, 18) for kind in classes]
        size = 8 if small else 5
        panel.set_xticks(range(len(classes)), names, rotation=90, fontsize=size)
        panel.set_yticks(range(len(classes)), names, fontsize=size)
    panel.tick_params(length=0)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    for spine in panel.spines.values():
        spine.set_visible(False)


def _write_figures(panel: Any, part: Matrix) -> None:
    for truth, row in enumerate(part):
        for guess, share in enumerate(row):
            if np.isnan(share) or share > 0:
                text = "–" if np.isnan(share) else "·" if share < 0.005 else f"{100 * share:.0f}"
                colour = "white" if share > 0.35 else "black"
                panel.text(guess, truth, text, ha="center", va="center", fontsize=7, color=colour, in_layout=False)
