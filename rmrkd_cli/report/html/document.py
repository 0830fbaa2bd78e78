"""The page as one HTML file that needs nothing else, and lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files

from rmrkd_cli.comparison.types import Comparison
from rmrkd_cli.report.figures.group_styles import DARK, LIGHT, styles_of
from rmrkd_cli.report.html.bar_charts import chart_bounds, difference_chart
from rmrkd_cli.report.html.confusion import LEVELS, confusion_section
from rmrkd_cli.report.html.gallery import gallery_section
from rmrkd_cli.report.html.header import lead, title_of
from rmrkd_cli.report.html.line_charts import curves_section
from rmrkd_cli.report.html.provenance import Provenance, made_section
from rmrkd_cli.report.html.tables import classes, summary
from rmrkd_cli.report.image_selection import ReportImages
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.terminal.text import escaped

_LIGHT_SHADE, _DARK_SHADE = ((255, 255, 255), (8, 75, 140)), ((24, 27, 32), (110, 190, 250))


def page(
    comparison: Comparison,
    *,
    pictures: ReportImages,
    curves: Mapping[str, Sequence[Curves]],
    without_curves: Sequence[str],
    provenance: Provenance,
    beside: Sequence[str],
) -> str:
    """Everything as HTML; text of the comparison is escaped."""
    styles = styles_of(comparison.groups)
    bounds = chart_bounds(comparison.differences)
    charts = "".join(difference_chart(comparison, one, bounds) for one in comparison.differences)
    sections = (
        ("summary", "Summary", summary(comparison)),
        ("classes", "Class by class", f"<div class=charts>{charts}</div>{classes(comparison)}"),
        ("training", "Training curves", curves_section(curves, styles, without_curves)),
        ("confusion", "What is taken for what", confusion_section(comparison)),
        ("pictures", "Pictures", gallery_section(comparison, pictures)),
        ("made", "How it was made", made_section(provenance, beside)),
    )
    links = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in sections)
    body = "".join(
        f"<section id={key} aria-labelledby=h-{key}><h2 id=h-{key}>{heading}</h2>{text}</section>"
        for key, heading, text in sections
    )
    style, script = _style(), _data("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'"
    )
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{policy}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        '<meta name=color-scheme content="light dark">'
        f"<meta name=referrer content=no-referrer><title>{escaped(title_of(comparison))}</title>"
        f"<style>{style}</style></head>\n<body>{_PATTERNS}<main>{lead(comparison)}"
        f"<nav aria-label=Contents><ul>{links}</ul></nav>\n{body}</main><script>{script}</script></body></html>\n"
    )


# Hatching for lengths and areas, so that no meaning hangs on colour alone.
_PATTERNS = (
    "<svg class=defs width=0 height=0 aria-hidden=true><defs>"
    '<pattern id=lost width=5 height=5 patternUnits=userSpaceOnUse patternTransform="rotate(45)">'
    "<rect class=ground width=5 height=5 /><rect class=stripe width=2.6 height=5 /></pattern>"
    '<pattern id=lost-marked width=5 height=5 patternUnits=userSpaceOnUse patternTransform="rotate(45)">'
    "<rect class=light width=5 height=5 /><rect class=marked width=2.6 height=5 /></pattern>"
    "<pattern id=dots width=4 height=4 patternUnits=userSpaceOnUse><rect class=light width=4 height=4 />"
    "<rect class=dotted width=2 height=2 /></pattern></defs></svg>"
)


def _data(file: str) -> str:
    return files("rmrkd_cli.report.html").joinpath(file).read_text(encoding="utf-8")


def _style() -> str:
    """The style sheet, with the colours of groups and shades in light and dark."""
    light, dark = _colours(LIGHT, _LIGHT_SHADE), _colours(DARK, _DARK_SHADE)
    slots = "".join(f".g{slot}{{--c:var(--g{slot})}}" for slot in range(len(LIGHT)))
    shades = "".join(f".s{level}{{background:var(--s{level});color:var(--t{level})}}" for level in range(LEVELS + 1))
    return (
        f":root{{{light}}}@media (prefers-color-scheme:dark){{@media screen{{:root{{{dark}}}}}}}{slots}{shades}\n"
        + _data("style.css")
    )


def _colours(groups: Sequence[str], shade: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    named = [f"--g{slot}:{colour}" for slot, colour in enumerate(groups)]
    for level in range(LEVELS + 1):
        part = level / LEVELS
        mixed = [round(low + part * (high - low)) for low, high in zip(*shade, strict=True)]
        named.append("--s{}:#{:02x}{:02x}{:02x}".format(level, *mixed))
        named.append(f"--t{level}:{'#000' if _is_light(mixed) else '#fff'}")
    return ";".join(named)


def _is_light(colour: Sequence[int]) -> bool:
    """Whether black stands out more than white."""
    linear = [float(((value / 255 + 0.055) / 1.055) ** 2.4) for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
