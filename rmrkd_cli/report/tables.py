"""The tables of a comparison: the same cells in the terminal, in CSV files and on the report page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rmrkd_cli.comparison.differences import boundary_width
from rmrkd_cli.comparison.types import Boundary, Comparison, Difference, Group, Interval
from rmrkd_cli.report.intervals import bounds_text, interval_text
from rmrkd_cli.results.csv import Table
from rmrkd_cli.terminal.durations import format_duration
from rmrkd_cli.terminal.text import NONE, format_percent, format_points, format_scaled, plural

_ALWAYS = ("", "mIoU", "mAcc", "aAcc", "parameters", "MACs")  # other columns appear where a group has a value


def class_table(comparison: Comparison, *, separate_bounds: bool = False) -> Table:
    """Return IoU in percent for each class and group, then each difference with its 95 % interval; the means last.

    Args:
        separate_bounds: Put the bounds of each interval in two separate columns, as CSV readers expect.
    """
    scores = {group.label: group for group in comparison.groups}
    return _class_table(comparison.classes, scores, comparison.differences, "mean IoU", separate_bounds)


def boundary_table(comparison: Comparison, *, separate_bounds: bool = False) -> Table | None:
    """Return the table of boundary IoU, as `class_table`; None if no group has it, or their widths differ."""
    if boundary_width(comparison.groups) is None:
        return None
    scores = {group.label: group.boundary for group in comparison.groups if group.boundary}
    differences = comparison.boundary_differences
    return _class_table(comparison.classes, scores, differences, "mean boundary IoU", separate_bounds)


def _class_table(
    classes: Sequence[str],
    scores: Mapping[str, Group] | Mapping[str, Boundary],
    differences: Sequence[Difference],
    mean: str,
    separate_bounds: bool,
) -> Table:
    columns = ["class", *scores]
    for difference in differences:
        heading = f"{difference.to} - {difference.base}"
        columns += [heading, f"{heading}, 2.5 %", f"{heading}, 97.5 %"] if separate_bounds else [heading]

    def row(label: str, ious: Sequence[float | None], changes: Sequence[Interval]) -> list[str]:
        cells = [_bounds_cells(change) if separate_bounds else [interval_text(change)] for change in changes]
        return [label, *map(format_percent, ious), *(cell for part in cells for cell in part)]

    rows = [
        row(label, [each.iou[k] for each in scores.values()], [difference.classes[k] for difference in differences])
        for k, label in enumerate(classes)
    ]
    means = row(mean, [each.miou for each in scores.values()], [difference.mean for difference in differences])
    return columns, [*rows, means]


def metric_table(comparison: Comparison, metric: Callable[[Group], Sequence[float | None]]) -> Table:
    """Return one metric in percent for each class (rows) and group (columns)."""
    values = [metric(group) for group in comparison.groups]
    rows = [[label, *(format_percent(of[k]) for of in values)] for k, label in enumerate(comparison.classes)]
    return ["class", *(group.label for group in comparison.groups)], rows


def summary_table(groups: Sequence[Group]) -> Table:
    """Return one row a group: mIoU, boundary IoU (mean, standard deviation over seeds), accuracies, size and cost."""
    boundaries = [group.boundary for group in groups] if boundary_width(groups) is not None else [None] * len(groups)
    columns: dict[str, list[str]] = {
        "": [group.label for group in groups],
        "seeds": [", ".join(map(str, group.seeds)) if len(group.seeds) > 1 else "" for group in groups],
        "mIoU": [mean_and_deviation(group) for group in groups],
        "boundary IoU": [mean_and_deviation(boundary) if boundary else NONE for boundary in boundaries],
        "mAcc": [format_percent(_mean(group, "metrics", "macc")) for group in groups],
        "aAcc": [format_percent(_mean(group, "metrics", "aacc")) for group in groups],
        "parameters": [format_scaled(_first(group, "parameters"), "M", 1e6) for group in groups],
        "MACs": [format_scaled(_first(group, "macs"), "G", 1e9) for group in groups],
        "latency": [format_latency(_first(group, "latency")) for group in groups],
        "file": [format_scaled(_first(group, "checkpoint_bytes"), "MB", 1e6) for group in groups],
        "s/step": [_format_step(_mean(group, "training", "seconds_per_step")) for group in groups],
        "training": [format_duration(_mean(group, "training", "seconds")) for group in groups],
    }
    kept = {heading: cells for heading, cells in columns.items() if heading in _ALWAYS or set(cells) - {"", NONE}}
    return list(kept), [list(cells) for cells in zip(*kept.values(), strict=True)]


def summary_lines(comparison: Comparison) -> list[str]:
    """Return a line for each difference of a mean IoU, then the share of the gap, training settings and warnings."""
    lines = [
        *_difference_lines(comparison, comparison.differences, "mIoU"),
        *_difference_lines(comparison, comparison.boundary_differences, "mean boundary IoU"),
        *([boundary_line(width)] if (width := boundary_width(comparison.groups)) is not None else []),
    ]
    soft = " on these images" if comparison.warnings and comparison.differences else ""
    lines += [f"{comparison.gap}{soft}"] if comparison.gap else []
    warnings = (*comparison.warnings, *comparison.boundary_warnings, *comparison.latency_warnings)
    return [*lines, *comparison.equality, *comparison.latency_notes, *(f"warning: {warning}" for warning in warnings)]


def boundary_line(width: float) -> str:
    """Return what the boundary IoU counts."""
    return f"boundary IoU: IoU of the pixels within {100 * width:g} % of the image's diagonal from an edge"


def _difference_lines(comparison: Comparison, differences: Sequence[Difference], metric: str) -> Iterator[str]:
    for difference in differences:
        mean = difference.mean
        if mean.value is None:
            continue
        line = f"{difference.to} - {difference.base} = {format_points(mean.value)} {metric}"
        if bounds := bounds_text(mean):
            images = plural(comparison.protocol["images"], "image")
            line += f", 95 % interval {bounds} over the choice of these {images}"
        elif comparison.warnings:
            line += " on these images"
        if len(difference.by_seed) > 1:
            line += "; by seed " + ", ".join(f"{seed}: {format_points(value)}" for seed, value in difference.by_seed)
        yield line


def mean_and_deviation(scores: Group | Boundary) -> str:
    """Return the mean IoU in percent, and with several seeds its sample standard deviation: `36.21 ± 0.39`."""
    mean = format_percent(scores.miou)
    return mean if scores.spread is None else f"{mean} ± {format_percent(scores.spread)}"


def _bounds_cells(change: Interval) -> list[str]:
    return [format_points(value) for value in (change.value, change.low, change.high)]


def _mean(group: Group, part: str, key: str) -> float | None:
    values = [(record.get(part) or {}).get(key) for record in group.records]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _first(group: Group, key: str) -> Any:
    return next((record[key] for record in group.records if record.get(key) is not None), None)


def format_latency(latency: Mapping[str, float] | None) -> str:
    """Return median and quartiles: `12.4 ms (11.9–13.2)`."""
    if not latency:
        return NONE
    digits = 1 if latency["median_ms"] < 100 else 0
    median, low, high = (f"{latency[key]:.{digits}f}" for key in ("median_ms", "low_ms", "high_ms"))
    return f"{median} ms ({low}–{high})"


def _format_step(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds:.3f}"
