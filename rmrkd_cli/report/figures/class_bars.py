"""Differences of every class as bars with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmrkd_cli.comparison.types import Comparison, Difference, Interval
from rmrkd_cli.report.figures.style import drawing, new_figure, save
from rmrkd_cli.terminal.text import points, short

_GAIN, _LOSS = "#0067a5", "#c24e00"
_ROW = 0.19  # inches


def draw_classes(comparison: Comparison, path: Path) -> None:
    """One panel a difference, classes in the order of the first one, the mean on top.

    Raises:
        RunError: When it cannot be written.
    """
    with drawing():
        count, rows = len(comparison.differences), len(comparison.classes) + 1
        figure = new_figure(1.4 + 4.6 * count, 1.0 + _ROW * rows)
        panels = figure.subplots(1, count, sharey=True, sharex=True, squeeze=False)[0]
        first = comparison.differences[0].classes
        order = sorted(range(len(first)), key=lambda k: (first[k].value is None, -(first[k].value or 0.0)))
        names = ["mean IoU", *(short(comparison.classes[k], 30) for k in order)]
        for panel, difference in zip(panels, comparison.differences, strict=True):
            _draw(panel, difference, [difference.mean, *(difference.classes[k] for k in order)])
        panels[0].set_yticks(range(rows), names)
        panels[0].get_yticklabels()[0].set_fontweight("bold")
        panels[0].set_ylim(rows - 0.4, -0.6)
        save(figure, path)


def _draw(panel: Any, difference: Difference, found: list[Interval]) -> None:
    for row, interval in enumerate(found):
        if interval.value is None:
            panel.text(0, row, " never occurs", va="center", fontsize=7.5, color="#555555")
            continue
        gain, known = interval.value >= 0, interval.low is not None and interval.high is not None
        solid = interval.decided or not known
        colour = _GAIN if gain else _LOSS
        panel.barh(
            row, 100 * interval.value, height=0.66, edgecolor=colour, linewidth=0.9, hatch="" if gain else "/////",
            facecolor=colour if gain and solid else "white", linestyle="-" if solid else (0, (3, 2)),
        )  # fmt: skip
        if interval.low is not None and interval.high is not None:
            ends = [100 * interval.low, 100 * interval.high]
            panel.plot(ends, [row, row], color="black", linewidth=0.9, marker="|", markersize=4.5)
        last = 100 * max(0.0, interval.value, interval.high or 0.0)
        panel.annotate(
            points(interval.value, 1), (last, row), (4, 0), textcoords="offset points", va="center", fontsize=7.5,
            annotation_clip=False,
        )  # fmt: skip
    panel.axvline(0, color="black", linewidth=0.8)
    panel.grid(axis="x")
    panel.set_axisbelow(True)
    panel.margins(x=0.12)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.set_title(f"{short(difference.to, 30)} − {short(difference.base, 30)}")
    panel.set_xlabel("points of IoU; hatched: lost" + _key(found))


def _key(found: list[Interval]) -> str:
    known = any(interval.low is not None for interval in found)
    return "; whisker: 95 % interval;\nhollow or dashed: it holds zero" if known else ""
