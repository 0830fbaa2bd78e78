"""Charts whose lengths are shares of their width, so that text keeps its size on any screen."""

from __future__ import annotations

from collections.abc import Sequence

from rmrkd_cli.comparison.types import Comparison, Difference, Group, Interval
from rmrkd_cli.report.figures.group_styles import Style, styles_of
from rmrkd_cli.report.html.axes import Scale, around
from rmrkd_cli.report.intervals import between
from rmrkd_cli.terminal.text import name, percent, points, signed

_TICKS = 4
_MOST_SHOWN = 40  # bars; more of them scroll in a box of their own
_SHAPES = {
    "s": "M-4.5-4.5H4.5V4.5H-4.5Z", "^": "M0-5.6L5.4 4.2H-5.4Z", "o": "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1-5 0Z",
    "D": "M0-6L6 0L0 6L-6 0Z", "v": "M0 5.6L5.4-4.2H-5.4Z", "P": "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "X": "M-5-5L0-2L5-5L2 0L5 5L0 2L-5 5L-2 0Z",
}  # fmt: skip


def shape(style: Style, x: str, y: float, size: float = 1.0) -> str:
    """A group's marker; x may be a share of the width, as `12.5%`."""
    drawn = f'<path class="g{style.slot} dot" transform="scale({size:g})" d="{_SHAPES[style.marker]}"/>'
    return f'<svg class=mark x="{x}" y="{y:g}" overflow="visible">{drawn}</svg>'


def strip_plot(comparison: Comparison) -> str:
    """The mIoU of every group on one axis: the mean as a marker, each seed as a tick."""
    values = [value for group in comparison.groups for value in _miou_of(group)]
    if not values:
        return ""
    low, high = around([100 * value for value in values], margin=0.12)
    scale = Scale(max(0.0, low), min(100.0, high))
    ticks = scale.ticks(_TICKS)
    styles = styles_of(comparison.groups)
    rows = "".join(_strip(group, styles[group.label], scale, ticks) for group in comparison.groups)
    several = any(len(group.records) > 1 for group in comparison.groups)
    seeds = " Thin strokes: single seeds." if several else ""
    caption = f"<figcaption><b>mIoU of each group, %.</b> Marker: the mean.{seeds}</figcaption>"
    return f"<figure class=strip>{caption}<ul>{rows}{_axis(scale, ticks, 0)}</ul></figure>"


def _miou_of(group: Group) -> list[float]:
    held = [group.miou, *(record["metrics"]["miou"] for record in group.records)]
    return [value for value in held if value is not None]


def _strip(group: Group, style: Style, scale: Scale, ticks: Sequence[float]) -> str:
    seeds = _miou_of(group)[1:] if len(group.records) > 1 else []
    marks = "".join(
        f'<line class="g{style.slot} seed" x1="{place:.2f}%" x2="{place:.2f}%" y1="4" y2="20"/>'
        for place in (scale(100 * value) for value in seeds)
    )
    if group.miou is not None:
        marks += shape(style, f"{scale(100 * group.miou):.2f}%", 12, 1.25)
    spread = f" <small>± {percent(group.spread)}</small>" if group.spread is not None else ""
    return (
        f"<li><span class=what>{name(group.label)}</span>"
        f"<svg class=track height=24 aria-hidden=true>{_grid(scale, ticks)}{marks}</svg>"
        f"<span class=value>{percent(group.miou)}{spread}</span></li>"
    )


def difference_chart(comparison: Comparison, difference: Difference, bounds: tuple[float, float]) -> str:
    """One bar a class, with its interval as a whisker and its figure beside."""
    scale = Scale(*bounds)
    ticks = scale.ticks(_TICKS)
    rows = [
        _bar(kind, found, scale, ticks, number)
        for number, (kind, found) in enumerate(zip(comparison.classes, difference.classes, strict=True))
    ]
    mean = _bar("mean IoU", difference.mean, scale, ticks, len(rows), "mean ")
    known = any(found.low is not None for found in difference.classes)
    key = "Whisker: 95 % interval. Full bar: the interval leaves zero out; hollow: it does not. " if known else ""
    scrolls = "class='bars long' tabindex=0" if len(rows) > _MOST_SHOWN else "class=bars"
    heading = f"{name(difference.to)} − {name(difference.base)}, points of IoU"
    return (
        f"<figure class=differences><figcaption><b>{heading}.</b> {key}Right of zero: gained; left and hatched: lost."
        "</figcaption>"
        f"<p class=order hidden><button type=button aria-pressed=true data-order=value>by difference</button> "
        "<button type=button aria-pressed=false data-order=class>in class order</button></p>"
        f"<ul {scrolls}>{mean}{_axis(scale, ticks, 1)}{''.join(_by_value(rows, difference.classes))}</ul></figure>"
    )


def chart_bounds(differences: Sequence[Difference]) -> tuple[float, float]:
    """In points, the same for all charts so that bars can be compared across them."""
    held = [100 * end for one in differences for found in (*one.classes, one.mean) for end in _ends(found)]
    return around(held, zero=True)


def _ends(found: Interval) -> list[float]:
    return [value for value in (found.value, found.low, found.high) if value is not None]


def _by_value(rows: Sequence[str], found: Sequence[Interval]) -> list[str]:
    def rank(number: int) -> tuple[bool, float, int]:
        value = found[number].value
        return value is None, -(value or 0.0), number

    return [rows[number] for number in sorted(range(len(rows)), key=rank)]


def _bar(what: str, found: Interval, scale: Scale, ticks: Sequence[float], number: int, extra: str = "") -> str:
    data = f'data-class="{number}" data-value="{"" if found.value is None else f"{found.value:.6f}"}"'
    limits = between(found)
    limits = f"<small>{limits}</small>" if limits else ""
    return (
        f'<li class="{extra}row" {data}><span class=what>{name(what)}</span>'
        f"<svg class=track height=25 aria-hidden=true>{_grid(scale, ticks)}{_bar_marks(found, scale)}</svg>"
        f"<span class=value><b>{points(found.value)}</b> {limits}</span></li>"
    )


def _bar_marks(found: Interval, scale: Scale) -> str:
    if found.value is None:
        return ""
    zero, end = scale(0.0), scale(100 * found.value)
    known = found.low is not None and found.high is not None
    kind = ("gain" if found.value >= 0 else "loss") + ("" if found.decided or not known else " open")
    marks = f'<rect class="{kind}" x="{min(zero, end):.3f}%" width="{abs(end - zero):.3f}%" y="6" height="13"/>'
    if found.low is not None and found.high is not None:
        low, high = scale(100 * found.low), scale(100 * found.high)
        marks += f'<line class=whisker x1="{low:.3f}%" x2="{high:.3f}%" y1="12.5" y2="12.5"/>'
        marks += "".join(
            f'<line class=whisker x1="{place:.3f}%" x2="{place:.3f}%" y1="9" y2="16"/>' for place in (low, high)
        )
    return marks


def _grid(scale: Scale, ticks: Sequence[float]) -> str:
    return "".join(
        f'<line class="{"zero" if tick == 0 else "grid"}" x1="{scale(tick):.3f}%" x2="{scale(tick):.3f}%" y1="0" '
        'y2="100%"/>'
        for tick in ticks
    )


def _axis(scale: Scale, ticks: Sequence[float], sign: int) -> str:
    digits = 0 if all(float(tick).is_integer() for tick in ticks) else 1
    texts = "".join(
        f'<text x="{scale(tick):.3f}%" y="12">{signed(tick, digits) if sign and tick else f"{tick:.{digits}f}"}</text>'
        for tick in ticks
        if 2 <= scale(tick) <= 98
    )
    return f"<li class=axis aria-hidden=true><span></span><svg class=track height=16>{texts}</svg><span></span></li>"
