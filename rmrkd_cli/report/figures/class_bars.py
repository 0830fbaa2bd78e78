"""The difference of IoU of each class as a bar with its confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.comparison.types import Comparison, Difference, Interval
from rmrkd_cli.report.figures.group_styles import GAIN, LOSS
from rmrkd_cli.report.figures.style import INK, PAPER, SOFT, figure_style, new_figure, save
from rmrkd_cli.terminal.text import abbreviate_labels, format_points, shorten, typeset_minus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.19  # inches a class
_NAME = 22  # characters of a class name


def draw_classes(comparison: Comparison, path: Path) -> None:
    """Write one panel a difference side by side.

    Raises:
        RunError: When the file cannot be written.
    """
    with figure_style():
        save(class_bars(comparison, comparison.differences, standalone=True), path)


def class_bars(comparison: Comparison, differences: Sequence[Difference], *, standalone: bool = False) -> Figure:
    """Return a panel for each of the differences. The mean is on top; classes are in the order of the first panel.

    All figures of one comparison have the same x axis.

    Args:
        standalone: Draw titles and a key, which the report page has in its text.
    """
    rows = len(comparison.classes) + 1
    figure = new_figure(1.1 + 2.4 * len(differences), 0.5 + 0.5 * standalone + _ROW * rows)
    panels = figure.subplots(1, len(differences), sharey=True, squeeze=False)[0]
    order = _by_value(differences[0].classes)
    for panel, difference in zip(panels, differences, strict=True):
        _draw_bars(panel, [difference.mean, *(difference.classes[k] for k in order)])
        panel.set_xlim(_limits(comparison.differences))
        panel.set_xlabel("points of IoU" + (_key(difference) if standalone else ""))
        if standalone:
            labels = abbreviate_labels((difference.to, difference.base), 16)
            panel.set_title(" − ".join(labels.values()))
    panels[0].set_yticks(range(rows), ["mean IoU", *(shorten(comparison.classes[k], _NAME) for k in order)])
    panels[0].get_yticklabels()[0].set_fontweight("bold")
    panels[0].set_ylim(rows - 0.4, -0.6)
    return figure


def _by_value(classes: Sequence[Interval]) -> list[int]:
    """Return the indices of the classes: largest gain first, classes that never occur last."""
    return sorted(range(len(classes)), key=lambda k: (classes[k].value is None, -(classes[k].value or 0.0)))


def _limits(differences: Sequence[Difference]) -> tuple[float, float]:
    """Return limits in points that hold zero, every bar and whisker, and the number at its end."""
    intervals = [interval for one in differences for interval in (*one.classes, one.mean)]
    ends = [end for interval in intervals for end in (interval.value, interval.low, interval.high) if end is not None]
    low, high = 100 * min([0.0, *ends]), 100 * max([0.0, *ends])
    width = (high - low) or 1.0
    return low - 0.05 * width, high + 0.2 * width


def _draw_bars(panel: Any, intervals: Sequence[Interval]) -> None:
    for row, interval in enumerate(intervals):
        if interval.value is None:
            panel.text(0, row, " never occurs", va="center", fontsize=7.5, color=SOFT)
            continue
        gain, known = interval.value >= 0, interval.low is not None and interval.high is not None
        filled = interval.excludes_zero or not known
        colour = GAIN if gain else LOSS
        panel.barh(
            row, 100 * interval.value, height=0.66, edgecolor=colour, linewidth=0.9, hatch="" if gain else "/////",
            facecolor=colour if gain and filled else PAPER, linestyle="-" if filled else (0, (3, 2)),
        )  # fmt: skip
        if interval.low is not None and interval.high is not None:
            ends = [100 * interval.low, 100 * interval.high]
            panel.plot(ends, [row, row], color=INK, linewidth=0.9, marker="|", markersize=4.5)
        end = 100 * max(0.0, interval.value, interval.high or 0.0)
        panel.annotate(
            typeset_minus(format_points(interval.value, 1)), (end, row), (4, 0), textcoords="offset points",
            va="center", fontsize=8, annotation_clip=False,
        )  # fmt: skip
    panel.axvline(0, color=INK, linewidth=0.8)
    panel.grid(axis="x")
    panel.set_axisbelow(True)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _key(difference: Difference) -> str:
    known = any(interval.low is not None for interval in difference.classes)
    return "; hatched: loss" + (";\nwhisker: 95 % interval;\nhollow or dashed: it includes zero" if known else "")
