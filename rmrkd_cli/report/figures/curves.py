"""Training curves of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.report.figures.group_styles import Style, style
from rmrkd_cli.report.figures.series import Panel, Series, panels
from rmrkd_cli.report.figures.style import drawing, new_figure, save
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.terminal.text import abbreviate_labels, short

_COLUMNS = 3


def draw_curves(
    runs: Mapping[str, Sequence[Curves]],
    path: Path,
    *,
    styles: Mapping[str, Style] | None = None,
    seconds: bool = False,
    smooth: float = 0.0,
) -> None:
    """A panel for mIoU, the total loss, each weighted loss, gradient norm and learning rate, as far as they are known.

    Args:
        runs: By label; runs of one label are drawn alike.
        styles: By label; the slots in order where none are given.
        seconds, smooth: As for `panels`.

    Raises:
        RmrkdError: When no line has a point.
        RunError: When it cannot be written.
    """
    styles = styles or {label: style(number + 1) for number, label in enumerate(runs)}
    drawn = panels(runs, seconds=seconds, smooth=smooth, more=True)
    if not drawn:
        over = "the seconds of its steps" if seconds else "a loss or a validation"
        raise RmrkdError(
            f"nothing can be drawn: no log says {over}", "--x iterations" if seconds else "name another run"
        )
    columns = min(_COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    with drawing():
        figure = new_figure(3.5 * columns, 2.5 * rows + 0.3)
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, place in zip(drawn, places, strict=False):
            _draw(place, panel, styles)
            place.set_xlabel("seconds of training" if seconds else "iteration")
        for place in places[len(drawn) :]:
            place.set_visible(False)
        _key(figure, [label for label in runs if runs[label]], styles)
        save(figure, path)


def _draw(place: Any, panel: Panel, styles: Mapping[str, Style]) -> None:
    for series in panel.series:
        if series.points:
            _line(place, series, styles[series.label], marked=panel.marked)
    if panel.log:
        place.set_yscale("log")
    place.set_title(short(panel.title, 40) + (f", {panel.unit}" if panel.unit else ""))
    place.grid(axis="y")
    place.set_axisbelow(True)
    place.ticklabel_format(axis="x", style="plain")


def _line(place: Any, series: Series, drawn: Style, *, marked: bool) -> None:
    xs, ys = zip(*series.points, strict=True)
    dash: Any = (0, drawn.dash) if drawn.dash else "-"
    every = None if marked or len(xs) == 1 else (len(xs) // 12 + drawn.slot, max(1, len(xs) // 4))
    place.plot(
        xs, ys, color=drawn.colour, linestyle=dash, linewidth=1.1, marker=drawn.marker, markersize=3.6,
        markeredgecolor="white", markeredgewidth=0.4, markevery=every,
    )  # fmt: skip


def _key(figure: Any, labels: Sequence[str], styles: Mapping[str, Style]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for label in labels:
        drawn = styles[label]
        dash: Any = (0, drawn.dash) if drawn.dash else "-"
        handles.append(
            Line2D([], [], color=drawn.colour, linestyle=dash, linewidth=1.3, marker=drawn.marker, markersize=5)
        )
    names = [
        f"\u2009{shown}" for shown in abbreviate_labels(labels, 40).values()
    ]  # a name that begins with _ would be left out
    figure.legend(handles, names, loc="outside upper left", ncols=min(4, len(names)), frameon=False, handlelength=3.5)
