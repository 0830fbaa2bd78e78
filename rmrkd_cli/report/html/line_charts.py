"""Training curves as small line charts: one panel a quantity, over iterations or over the seconds of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rmrkd_cli.report.figures.group_styles import Style
from rmrkd_cli.report.figures.series import Panel, Series, panels
from rmrkd_cli.report.html.axes import Scale, around
from rmrkd_cli.report.html.bar_charts import shape
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.terminal.text import abbreviate_labels, escaped, name, plural, short

_WIDTH, _HEIGHT = 400, 250
_LEFT, _TOP, _BOTTOM = 46, 12, 34
_LETTER = 7.0  # width of a character of a label, about
_LABEL = 14  # characters
_LINE = 15.0  # least distance of two labels


def curves_section(runs: Mapping[str, Sequence[Curves]], styles: Mapping[str, Style], missing: Sequence[str]) -> str:
    """All panels twice, of which a switch shows one set."""
    told = "".join(f"<li>{escaped(line)}</li>" for line in missing)
    notes = f"<ul class=missing>{told}</ul>" if told else ""
    if not any(runs.values()):
        return f"<p>No run's log is known for these files.</p>{notes}"
    count = ", ".join(f"{name(label)}: {plural(len(group), 'run')}" for label, group in runs.items() if group)
    unfinished = any(run.cut for group in runs.values() for run in group)
    cut = " A log without a whole last line was read up to there." if unfinished else ""
    return (
        f"<p>Measured while training ({count}). Several seeds of a group are drawn alike. Losses are weighted as they "
        f"enter the sum; where a run logged more than 150 steps, each point is a mean of neighbours.{cut}</p>"
        "<input type=radio name=over id=over-iterations class=switch checked><label for=over-iterations>over "
        "iterations</label><input type=radio name=over id=over-seconds class=switch><label for=over-seconds>over "
        "training time</label>"
        f"<div class='panels iterations'>{_charts(runs, styles, seconds=False)}</div>"
        f"<div class='panels seconds'>{_charts(runs, styles, seconds=True)}</div>{notes}"
    )


def _charts(runs: Mapping[str, Sequence[Curves]], styles: Mapping[str, Style], *, seconds: bool) -> str:
    return "".join(_figure(panel, styles, seconds=seconds) for panel in panels(runs, seconds=seconds))


def _figure(panel: Panel, styles: Mapping[str, Style], *, seconds: bool) -> str:
    title = escaped(short(panel.title)) + (", %" if panel.unit else "")
    log = " <small>logarithmic</small>" if panel.log else ""
    return f"<figure><figcaption><b>{title}</b>{log}</figcaption>{line_chart(panel, styles, seconds=seconds)}</figure>"


def line_chart(panel: Panel, styles: Mapping[str, Style], *, seconds: bool = False) -> str:
    """One panel; every line ends in its group's name."""
    series = [one for one in panel.series if one.points]
    size, unit = _time_unit(series) if seconds else _count_unit(series)
    labels = list(dict.fromkeys(one.label for one in series))
    shown = abbreviate_labels(labels, _LABEL)
    room = max(map(len, shown.values())) * _LETTER + 22
    x = Scale(*_bounds(series), _LEFT, _WIDTH - room)
    values = [y for one in series for _, y in one.points]
    low, high = (min(values) / 1.15, max(values) * 1.15) if panel.log else around(values)
    y = Scale(max(low, 0.0) if min(values) >= 0 and not panel.log else low, high, _HEIGHT - _BOTTOM, _TOP, panel.log)
    drawn = [_line(one, styles[one.label], x, y, marked=panel.marked) for one in series]
    says = "; ".join(f"{short(label)} ends at {_last(series, label):.4g}" for label in labels)
    return (
        f'<svg class=chart viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{escaped(short(panel.title))}: '
        f'{escaped(says)}">{_frame(x, y, size, unit)}{"".join(drawn)}'
        f"{_names(series, shown, styles, y, _WIDTH - room)}</svg>"
    )


def _bounds(series: Sequence[Series]) -> tuple[float, float]:
    places = [x for one in series for x, _ in one.points]
    return min(0.0, *places), max(1e-9, *places)


def _time_unit(series: Sequence[Series]) -> tuple[float, str]:
    longest = _bounds(series)[1]
    return (1.0, "seconds") if longest < 180 else (60.0, "minutes") if longest < 10_800 else (3600.0, "hours")


def _count_unit(series: Sequence[Series]) -> tuple[float, str]:
    return (1.0, "iterations") if _bounds(series)[1] < 5000 else (1000.0, "thousand iterations")


def _line(one: Series, style: Style, x: Scale, y: Scale, *, marked: bool) -> str:
    places = [(x(px), y(py)) for px, py in one.points]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    dash = " ".join(f"{1.6 * part:g}" for part in style.dash)
    drawn = f'<polyline class="g{style.slot} line" stroke-dasharray="{dash or "none"}" points="{path}"/>'
    if marked or len(places) == 1:
        drawn += "".join(shape(style, f"{px:.1f}", round(py, 1), 0.62) for px, py in places)
    return drawn


def _last(series: Sequence[Series], label: str) -> float:
    ends = [one.points[-1][1] for one in series if one.label == label]
    return sum(ends) / len(ends)


def _names(
    series: Sequence[Series], shown: Mapping[str, str], styles: Mapping[str, Style], y: Scale, left: float
) -> str:
    """At the right, where the lines end, moved apart where they would cover each other."""
    wanted = sorted((y(_last(series, label)), label) for label in shown)
    places = apart([place for place, _ in wanted], _TOP + 4, _HEIGHT - _BOTTOM - 6)
    return "".join(
        shape(styles[label], f"{left + 10:.1f}", round(place, 1), 0.8)
        + f'<text class=name x="{left + 19:.1f}" y="{place + 4:.1f}">{escaped(shown[label])}</text>'
        for place, (_, label) in zip(places, wanted, strict=True)
    )


def apart(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Places in the same order, a line's height apart, near the wanted ones."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, low, places[-1] + _LINE if places else low))
    limit = max(high, low + _LINE * (len(places) - 1))
    for number in range(len(places) - 1, -1, -1):
        places[number] = min(places[number], limit)
        limit = places[number] - _LINE
    return places


def _frame(x: Scale, y: Scale, size: float, unit: str) -> str:
    parts = []
    for tick in y.ticks(4):
        place = y(tick)
        parts.append(f'<line class=grid x1="{x.start:g}" x2="{x.end:.1f}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text class=y x="{_LEFT - 6}" y="{place + 4:.1f}">{_figure_of(tick)}</text>')
    shown = Scale(x.low / size, x.high / size, x.start, x.end)
    for tick in shown.ticks(4):
        place = shown(tick)
        parts.append(f'<line class=tick x1="{place:.1f}" x2="{place:.1f}" y1="{y.start:g}" y2="{y.start + 4:g}"/>')
        parts.append(f'<text class=x x="{place:.1f}" y="{y.start + 16:g}">{_figure_of(tick)}</text>')
    parts.append(f'<line class=base x1="{x.start:g}" x2="{x.end:.1f}" y1="{y.start:g}" y2="{y.start:g}"/>')
    parts.append(f'<text class=x x="{(x.start + x.end) / 2:.1f}" y="{y.start + 31:g}">{unit}</text>')
    return "".join(parts)


def _figure_of(value: float) -> str:
    return f"{value:g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"
