"""Training curves of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.report.figures.group_styles import Style, style
from rmrkd_cli.report.figures.series import Panel, Series, panels
from rmrkd_cli.report.figures.style import PAPER, SOFT, figure_style, new_figure, save
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.terminal.text import abbreviate_labels, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3


def draw_curves(
    runs: Mapping[str, Sequence[Curves]],
    path: Path,
    *,
    styles: Mapping[str, Style] | None = None,
    seconds: bool = False,
    smooth: float = 0.0,
) -> None:
    """Write a panel each for mIoU, total loss, weighted losses, gradient norm and learning rate, where logged.

    Args:
        runs: By label; all runs of a label look the same.
        styles: By label; by default the slots in order.
        seconds, smooth: See `panels`.

    Raises:
        RmrkdError: If no log has a value to draw.
        RunError: When the file cannot be written.
    """
    styles = styles or {label: style(number + 1) for number, label in enumerate(runs)}
    drawn = panels(runs, seconds=seconds, smooth=smooth, more=True)
    if not drawn:
        missing = "the seconds of its steps" if seconds else "a loss or a validation"
        raise RmrkdError(f"no log has {missing}", "--x iterations" if seconds else "name another run")
    columns = min(_COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    with figure_style():
        figure = new_figure(3.5 * columns, 2.5 * rows + 0.3)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, ax in zip(drawn, axes, strict=False):
            _draw_panel(ax, panel, styles, seconds)
            ax.set_title(panel_title(panel))
        for ax in axes[len(drawn) :]:
            ax.set_visible(False)
        _add_legend(figure, [label for label in runs if runs[label]], styles, columns)
        save(figure, path)


def curve_panel(panel: Panel, styles: Mapping[str, Style], *, seconds: bool) -> Figure:
    """Return one panel without title and legend, for the report page."""
    figure = new_figure(3.5, 2.3)
    _draw_panel(figure.subplots(), panel, styles, seconds)
    return figure


def curve_legend(labels: Sequence[str], styles: Mapping[str, Style]) -> Figure:
    """Return the legend of all panels, one line a label."""
    figure = new_figure(3.5, 0.1 + 0.2 * len(labels))
    _add_legend(figure, labels, styles, columns=1)
    return figure


def panel_title(panel: Panel) -> str:
    """Return the name of the quantity and its unit; not escaped for HTML."""
    return shorten(panel.title, 40) + (f", {panel.unit}" if panel.unit else "")


def _draw_panel(ax: Any, panel: Panel, styles: Mapping[str, Style], seconds: bool) -> None:
    for series in panel.series:
        if series.points:
            _draw_line(ax, series, styles[series.label], all_marked=panel.marked)
    if panel.has_single_points:
        ax.text(0.5, 0.97, "one point only", transform=ax.transAxes, ha="center", va="top", color=SOFT)
        ax.set_xticks(sorted({x for one in panel.series for x, _ in one.points}))
    if panel.log:
        ax.set_yscale("log")
    ax.set_xlabel("seconds of training" if seconds else "iteration")
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.ticklabel_format(axis="x", style="plain")


def _draw_line(ax: Any, series: Series, style: Style, *, all_marked: bool) -> None:
    xs, ys = zip(*series.points, strict=True)
    every = None if all_marked or len(xs) == 1 else (len(xs) // 12 + style.slot, max(1, len(xs) // 4))
    ax.plot(
        xs, ys, linewidth=1.1, markersize=3.6, markeredgecolor=PAPER, markeredgewidth=0.4, markevery=every,
        **_line_style(style),
    )  # fmt: skip


def _line_style(style: Style) -> dict[str, Any]:
    dash = (0, style.dash) if style.dash else "-"
    return {"color": style.colour, "linestyle": dash, "marker": style.marker}


def _add_legend(figure: Figure, labels: Sequence[str], styles: Mapping[str, Style], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=1.3, markersize=5, **_line_style(styles[label])) for label in labels]
    # matplotlib leaves out names that begin with an underscore, so each begins with a thin space
    names = [f"\u2009{name}" for name in abbreviate_labels(labels, 40).values()]
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, handlelength=3.5)
