"""The mIoU of every group on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rmrkd_cli.comparison.types import Group
from rmrkd_cli.report.figures.group_styles import styles_of
from rmrkd_cli.report.figures.style import PAPER, new_figure
from rmrkd_cli.report.tables import mean_and_deviation
from rmrkd_cli.terminal.text import abbreviate_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.3  # inches a group
_NAME = 22  # characters of a label


def group_miou(groups: Sequence[Group]) -> Figure | None:
    """Return a row for each group: a marker at its mean and, with several seeds, a tick at each seed.

    Returns None where no group has an mIoU.
    """
    if all(group.miou is None for group in groups):
        return None
    styles, names = styles_of(groups), abbreviate_labels((group.label for group in groups), _NAME)
    figure = new_figure(3.5, 0.45 + _ROW * len(groups))
    panel = figure.subplots()
    for row, group in enumerate(groups):
        style = styles[group.label]
        seeds = [100 * miou for record in group.records if (miou := record["metrics"]["miou"]) is not None]
        if len(seeds) > 1:
            panel.plot(seeds, [row] * len(seeds), linestyle="", marker="|", markersize=11, color=style.colour)
        if group.miou is not None:
            panel.plot(
                100 * group.miou, row, linestyle="", marker=style.marker, markersize=6.5, color=style.colour,
                markeredgecolor=PAPER, markeredgewidth=0.6,
            )  # fmt: skip
    panel.margins(x=0.12)
    panel.grid(axis="both")
    panel.set_axisbelow(True)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.set_yticks(range(len(groups)), list(names.values()))
    panel.set_ylim(len(groups) - 0.4, -0.6)
    panel.set_xlabel("mIoU, %")
    values = panel.secondary_yaxis("right")
    values.set_yticks(range(len(groups)), [mean_and_deviation(group) for group in groups])
    values.tick_params(axis="y", length=0)
    values.spines["right"].set_visible(False)
    return figure
