"""The tables of a comparison: the same cells in the terminal, in CSV files and on the report page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rmrkd_cli.comparison.types import Comparison, Group, Interval
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
    groups, differences = comparison.groups, comparison.differences
    columns = ["class", *(group.label for group in groups)]
    for difference in differences:
        heading = f"{difference.to} - {difference.base}"
        columns += [heading, f"{heading}, 2.5 %", f"{heading}, 97.5 %"] if separate_bounds else [heading]

    def row(label: str, ious: Sequence[float | None], changes: Sequence[Interval]) -> list[str]:
        cells = [_bounds_cells(change) if separate_bounds else [interval_text(change)] for change in changes]
        return [label, *map(format_percent, ious), *(cell for part in cells for cell in part)]

    rows = [
        row(label, [group.iou[k] for group in groups], [difference.classes[k] for difference in differences])
        for k, label in enumerate(comparison.classes)
    ]
    means = row("mean IoU", [group.miou for group in groups], [difference.mean for difference in differences])
    return columns, [*rows, means]


def metric_table(comparison: Comparison, metric: Callable[[Group], Sequence[float | None]]) -> Table:
    """Return one metric in percent for each class (rows) and group (columns)."""
    values = [metric(group) for group in comparison.groups]
    rows = [[label, *(format_percent(of[k]) for of in values)] for k, label in enumerate(comparison.classes)]
    return ["class", *(group.label for group in comparison.groups)], rows


def summary_table(groups: Sequence[Group]) -> Table:
    """Return one row a group: mIoU (mean and standard deviation over seeds), accuracies, size and cost."""
    columns: dict[str, list[str]] = {
        "": [group.label for group in groups],
        "seeds": [", ".join(map(str, group.seeds)) if len(group.seeds) > 1 else "" for group in groups],
        "mIoU": [mean_and_deviation(group) for group in groups],
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
    """Return one line a difference of mIoU, then the share of the gap, the training settings and the warnings."""
    images = comparison.protocol["images"]
    lines = []
    for difference in comparison.differences:
        mean = difference.mean
        if mean.value is None:
            continue
        line = f"{difference.to} - {difference.base} = {format_points(mean.value)} mIoU"
        if bounds := bounds_text(mean):
            line += f", 95 % interval {bounds} over the choice of these {plural(images, 'image')}"
        elif comparison.warnings:
            line += " on these images"
        if len(difference.by_seed) > 1:
            line += "; by seed " + ", ".join(f"{seed}: {format_points(value)}" for seed, value in difference.by_seed)
        lines.append(line)
    soft = " on these images" if comparison.warnings and comparison.differences else ""
    lines += [f"{comparison.gap}{soft}"] if comparison.gap else []
    warnings = (*comparison.warnings, *comparison.latency_warnings)
    return [*lines, *comparison.equality, *comparison.latency_notes, *(f"warning: {warning}" for warning in warnings)]


def mean_and_deviation(group: Group) -> str:
    """Return the mIoU in percent, and with several seeds its sample standard deviation: `36.21 ± 0.39`."""
    mean = format_percent(group.miou)
    return mean if group.spread is None else f"{mean} ± {format_percent(group.spread)}"


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
