"""The top of the page: what was measured, which is better and by how much, and what speaks against believing it."""

from __future__ import annotations

from rmrkd_cli.comparison.types import Comparison, Difference, Group
from rmrkd_cli.report.html.bar_charts import strip_plot
from rmrkd_cli.report.image_selection import main_difference
from rmrkd_cli.report.intervals import between
from rmrkd_cli.results.protocol import protocol_line
from rmrkd_cli.terminal.text import abbreviate_labels, escaped, name, percent, plural, points, short


def title_of(comparison: Comparison) -> str:
    """Not escaped."""
    protocol, main = comparison.protocol, main_difference(comparison)
    place = f"{short(protocol['dataset'])} {short(protocol['split'])}"
    if main is None:
        return f"Results on {place}"
    shown = abbreviate_labels((main.to, main.base), 30)
    return f"{shown[main.to]} against {shown[main.base]} on {place}"


def lead(comparison: Comparison) -> str:
    """Title, verdict, each group's mIoU, and everything a reader must know before."""
    protocol = escaped(protocol_line(comparison.protocol))
    parts = [
        f"<p class=kicker>Comparison of segmentation networks</p><h1>{escaped(title_of(comparison))}</h1>",
        f"<p class=verdict>{verdict(comparison)}</p>",
    ]
    if seeds := _by_seed(comparison):
        parts.append(f"<p class=small>{seeds}</p>")
    if comparison.gap:
        parts.append(f"<p class=gap>{escaped(comparison.gap)}</p>")
    parts.append(f"<p class=protocol><b>Measured on</b> {protocol}</p>")
    if comparison.warnings:
        lines = "".join(f"<li>{escaped(line)}</li>" for line in comparison.warnings)
        parts.append(
            f"<div class=warnings role=note aria-labelledby=before><h2 id=before>Before you believe it</h2><ul>{lines}"
            "</ul></div>"
        )
    if comparison.equality:
        lines = "".join(f"<li>{escaped(line)}</li>" for line in comparison.equality)
        parts.append(f"<div class=equality><h2>Trained alike?</h2><ul>{lines}</ul></div>")
    return f"<header>{''.join(parts)}</header>{strip_plot(comparison)}"


def verdict(comparison: Comparison) -> str:
    """One sentence, as HTML."""
    main = main_difference(comparison)
    groups = {group.label: group for group in comparison.groups}
    if main is None or main.mean.value is None or main.base not in groups or main.to not in groups:
        return "No two of these results can be told better or worse: there is no difference of mIoU between them."
    return _sentence(main, groups[main.base], groups[main.to])


def _sentence(main: Difference, base: Group, to: Group) -> str:
    value, interval = main.mean.value or 0.0, between(main.mean)
    to_name, base_name = name(main.to), name(main.base)
    figures = f"{percent(to.miou)} against {percent(base.miou)} % mIoU{_seeds(base, to)}"
    if interval and not main.mean.decided:
        return (
            f"It is not decided whether <b>{to_name}</b> is better than {base_name}: it has <b>{points(value)}</b> "
            f"points of mIoU, and the 95 % interval, {interval}, holds zero ({figures})."
        )
    size = f"<b>{points(abs(value)).lstrip('+')} points of mIoU</b>"
    if not interval:  # a figure, and no claim
        more = "more" if value >= 0 else "less"
        return f"<b>{to_name}</b> has {size} {more} than {base_name}, and no interval could be computed: {figures}."
    what = "better" if value > 0 else "worse"
    return f"<b>{to_name}</b> is {what} than {base_name} by {size} (95 % interval {interval}): {figures}."


def _by_seed(comparison: Comparison) -> str:
    """The same difference of each seed that both have, where there are several."""
    main = main_difference(comparison)
    if main is None or len(main.by_seed) < 2:
        return ""
    told = ", ".join(f"{seed}: {points(value)}" for seed, value in main.by_seed[:12])
    return f"Points of mIoU by seed: {told}"


def _seeds(base: Group, to: Group) -> str:
    fewest = min(len(base.records), len(to.records))
    if len(base.records) == len(to.records):
        return ", one run each" if fewest == 1 else f", means of {plural(fewest, 'run')} each"
    return f", means of {plural(len(to.records), 'run')} and {plural(len(base.records), 'run')}"
