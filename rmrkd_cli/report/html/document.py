"""The report as one HTML file that loads nothing: styles, script, figures and images are inside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rmrkd_cli.comparison.differences import boundary_width
from rmrkd_cli.comparison.groups import group_records
from rmrkd_cli.comparison.types import Comparison, Difference, Group
from rmrkd_cli.report import tables
from rmrkd_cli.report.figures.class_bars import class_bars
from rmrkd_cli.report.figures.confusion import confusion_matrix
from rmrkd_cli.report.figures.counts import MAX_NUMBERED, has_matrix, largest_confusions, shares
from rmrkd_cli.report.figures.curves import curve_legend, curve_panel, panel_title
from rmrkd_cli.report.figures.group_miou import group_miou
from rmrkd_cli.report.figures.group_styles import styles_of
from rmrkd_cli.report.figures.series import Panel, panels
from rmrkd_cli.report.figures.style import figure_style
from rmrkd_cli.report.html.gallery import gallery
from rmrkd_cli.report.html.header import conclusion, title_of
from rmrkd_cli.report.html.provenance import Provenance
from rmrkd_cli.report.html.svg import COLOURS, inline_svg
from rmrkd_cli.report.html.text import label_html
from rmrkd_cli.report.image_selection import ReportImages
from rmrkd_cli.results.csv import Table
from rmrkd_cli.results.protocol import protocol_line
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.terminal.text import format_percent, format_points, format_scaled, plural, shorten, typeset_minus

_MAX_READABLE = 256  # classes up to which the page holds every count of a matrix


def render_page(
    comparison: Comparison,
    *,
    images: ReportImages,
    curves: Mapping[str, Sequence[Curves]],
    missing_curves: Sequence[str],
    provenance: Provenance,
    file_names: Sequence[str],
) -> str:
    """Return the page. See `write_report` for the arguments; `file_names` are the files beside the page."""
    style, script = _style(), Markup(_asset("page.js"))
    with figure_style():
        page = _environment().get_template("page.html.j2")
        return page.render(
            style=style, script=script, style_hash=_hash(style), script_hash=_hash(script),
            title=title_of(comparison), conclusion=conclusion(comparison), comparison=comparison,
            protocol=protocol_line(comparison.protocol), miou_chart=_miou_chart(comparison.groups),
            tables=_tables(comparison), class_charts=_class_charts(comparison), curves=_curves(comparison, curves),
            missing_curves=missing_curves, matrices=_matrices(comparison), gallery=gallery(comparison, images),
            provenance=provenance, file_names=file_names,
        )  # fmt: skip


def _environment() -> Environment:
    """Return templates that escape every value, and show control characters in it as escapes."""
    environment = Environment(
        loader=PackageLoader("rmrkd_cli.report.html"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: value if isinstance(value, Markup) else escape_control(value),
    )  # fmt: skip
    environment.filters |= {
        "label": label_html, "percent": format_percent, "plural": plural, "shorten": shorten,
        "lines": lambda text: Markup("&#10;").join(map(escape_control, text.split("\n"))),
        "points": lambda value: typeset_minus(format_points(value)),
        "megabytes": lambda count: format_scaled(count, "MB", 1e6),
    }  # fmt: skip
    return environment


def _miou_chart(groups: Sequence[Group]) -> Markup:
    figure = group_miou(groups)
    return Markup() if figure is None else inline_svg(figure, "miou", "mIoU of each group, as in the table below")


def _tables(comparison: Comparison) -> dict[str, Any]:
    several = any(len(group.records) > 1 for group in comparison.groups)
    boundary, width = tables.boundary_table(comparison), boundary_width(comparison.groups)
    return {
        "summary": tables.summary_table(comparison.groups),
        "runs": tables.summary_table(group_records(comparison.records, seeds=False)) if several else None,
        "classes": _differences_first(tables.class_table(comparison), comparison.differences),
        "boundary": _differences_first(boundary, comparison.boundary_differences) if boundary is not None else None,
        "boundary_line": tables.boundary_line(width) if width is not None else "",
        "accuracy": tables.metric_table(comparison, lambda group: group.accuracy),
        "dice": tables.metric_table(comparison, lambda group: group.dice),
    }


def _differences_first(table: Table, differences: Sequence[Difference]) -> Table:
    """Return a table of classes with the columns of differences in front, so that a narrow screen shows them."""
    columns, rows = table
    count = len(differences)
    headings = [Markup("{} − {}").format(label_html(each.to), label_html(each.base)) for each in differences]
    return (
        [columns[0], *headings, *columns[1 : len(columns) - count]],
        [[row[0], *row[len(row) - count :], *row[1 : len(row) - count]] for row in rows],
    )


def _class_charts(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "difference": difference,
            "intervals": any(interval.low is not None for interval in difference.classes),
            "svg": inline_svg(
                class_bars(comparison, [difference]), f"classes-{number}",
                "Difference of IoU of each class, as in the table below",
            ),
        }
        for number, difference in enumerate(comparison.differences)
    ]  # fmt: skip


def _curves(comparison: Comparison, runs: Mapping[str, Sequence[Curves]]) -> dict[str, Any] | None:
    """Return every panel over iterations and over seconds; None without a log."""
    labels = [label for label, group in runs.items() if group]
    if not labels:
        return None
    styles = styles_of(comparison.groups)

    def charts(seconds: bool) -> list[dict[str, Any]]:
        drawn: list[dict[str, Any]] = []
        for number, panel in enumerate(panels(runs, seconds=seconds)):
            if panel.has_single_points:
                drawn.append({"title": panel_title(panel), "log": False, "points": _single_points(panel, seconds)})
                continue
            ends = [f"{shorten(one.label)} ends at {one.points[-1][1]:.4g}" for one in panel.series if one.points]
            figure = curve_panel(panel, styles, seconds=seconds)
            svg = inline_svg(figure, f"curve-{seconds}-{number}", f"{panel_title(panel)}: {'; '.join(ends)}")
            drawn.append({"title": panel_title(panel), "log": panel.log, "svg": svg, "points": []})
        return drawn

    return {
        "legend": inline_svg(curve_legend(labels, styles), "legend", "Legend"),
        "runs": {label: len(runs[label]) for label in labels},
        "incomplete": any(run.incomplete for group in runs.values() for run in group),
        "by_iteration": charts(seconds=False),
        "by_time": charts(seconds=True),
    }


def _single_points(panel: Panel, seconds: bool) -> list[tuple[str, str, str]]:
    """Return (label, x, y) as text for each run of a panel that would be a frame with one marker."""
    unit = f" {panel.unit}" if panel.unit else ""
    points = [(one.label, *one.points[0]) for one in panel.series if one.points]
    return [(label, f"{x:.4g} s" if seconds else f"iteration {x:g}", f"{y:.4g}{unit}") for label, x, y in points]


def _matrices(comparison: Comparison) -> list[dict[str, Any]]:
    classes = comparison.classes
    readable, numbered = len(classes) <= _MAX_READABLE, len(classes) <= MAX_NUMBERED
    matrices = []
    for number, group in enumerate(comparison.groups):
        if not has_matrix(group):
            continue
        assert group.matrix is not None
        share = shares(group.matrix)
        description = f"Confusion matrix of {shorten(group.label)}"
        figure = confusion_matrix(group, classes)
        matrices.append(
            {
                "label": group.label,
                "description": description,
                "numbered": numbered,
                "svg": inline_svg(figure, f"confusion-{number}", description, fixed_width=numbered),
                "counts": ";".join(",".join(str(n or "") for n in row) for row in group.matrix) if readable else "",
                "names": "\n".join(shorten(name, 40) for name in classes) if readable else "",
                "largest": [
                    (classes[truth], classes[guess], float(share[truth, guess]), group.matrix[truth][guess])
                    for truth, guess in largest_confusions(group.matrix)
                ],
            }
        )
    return matrices


def _style() -> Markup:
    """Return the style sheet after the colours of the light and the dark scheme."""
    light, dark = (";".join(f"{colour[1]}:{colour[column]}" for colour in COLOURS) for column in (2, 3))
    schemes = f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    return Markup(schemes + _asset("style.css"))


def _asset(name: str) -> str:
    return files("rmrkd_cli.report.html").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> Markup:
    """Return the source expression of a Content-Security-Policy that allows this text and no other."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return Markup(f"'sha256-{digest}'")
