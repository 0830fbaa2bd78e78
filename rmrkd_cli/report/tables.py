"""Result records, and their views: tables, JSON, CSV and HTML are made from one record."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmrkd_cli.comparison.types import Comparison, Group, Interval
from rmrkd_cli.results.csv import Table
from rmrkd_cli.terminal.durations import duration

if TYPE_CHECKING:
    pass


def percent(value: float | None, digits: int = 2) -> str:
    """A ratio as percent; `–` for a class that never occurs."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def class_table(comparison: Comparison, *, apart: bool = False) -> Table:
    """IoU of every class in every group, and the differences with their 95 % intervals; the means last.

    Args:
        apart: The bounds of an interval in columns of their own.
    """
    groups, differences = comparison.groups, comparison.differences
    columns = ["class", *(group.label for group in groups)]
    for difference in differences:
        name = f"{difference.to} - {difference.base}"
        columns += [name, f"{name}, 2.5 %", f"{name}, 97.5 %"] if apart else [name]

    def row(name: str, values: Sequence[float | None], changes: Sequence[Interval]) -> list[str]:
        cells = [_apart(change) if apart else [interval_text(change)] for change in changes]
        return [name, *map(percent, values), *(cell for part in cells for cell in part)]

    rows = [
        row(name, [group.iou[k] for group in groups], [difference.classes[k] for difference in differences])
        for k, name in enumerate(comparison.classes)
    ]
    means = row("mean IoU", [group.miou for group in groups], [difference.mean for difference in differences])
    return columns, [*rows, means]


def summary_table(groups: Sequence[Group]) -> Table:
    """One line a group: mIoU (with several seeds mean and standard deviation), accuracies, size and cost."""
    columns: dict[str, list[str]] = {
        "": [group.label for group in groups],
        "seeds": [", ".join(str(seed) for seed in group.seeds) if len(group.seeds) > 1 else "" for group in groups],
        "mIoU": [with_spread(group.miou, group.spread) for group in groups],
        "mAcc": [percent(_mean(group, "metrics", "macc")) for group in groups],
        "aAcc": [percent(_mean(group, "metrics", "aacc")) for group in groups],
        "parameters": [_scaled(_first(group, "parameters"), "M", 1e6) for group in groups],
        "MACs": [_scaled(_first(group, "macs"), "G", 1e9) for group in groups],
        "latency": [_latency(_first(group, "latency")) for group in groups],
        "file": [_scaled(_first(group, "checkpoint_bytes"), "MB", 1e6) for group in groups],
        "s/step": [_seconds(_mean(group, "training", "seconds_per_step")) for group in groups],
        "training": [_duration(_mean(group, "training", "seconds")) for group in groups],
    }
    always = ("", "mIoU", "mAcc", "aAcc", "parameters", "MACs")
    shown = {name: cells for name, cells in columns.items() if name in always or set(cells) - {"", "–"}}
    return list(shown), [list(cells) for cells in zip(*shown.values(), strict=True)]


def verdict_lines(comparison: Comparison) -> list[str]:
    """The differences of mIoU in words, the share of the gap, what was equal; warnings last."""
    images = comparison.protocol["images"]
    lines = []
    for difference in comparison.differences:
        mean = difference.mean
        if mean.value is None:
            continue
        line = f"{difference.to} - {difference.base} = {100 * mean.value:+.2f} mIoU"
        if mean.low is not None and mean.high is not None:
            line += f", 95 % interval {_bounds(mean)} over the choice of these {images} images"
        if len(difference.by_seed) > 1:
            line += "; by seed " + ", ".join(f"{seed}: {100 * value:+.2f}" for seed, value in difference.by_seed)
        lines.append(line)
    lines += [comparison.gap] if comparison.gap else []
    return [*lines, *comparison.equality, *(f"warning: {warning}" for warning in comparison.warnings)]


def with_spread(value: float | None, spread: float | None) -> str:
    """`36.21 ± 0.39`; the second is the sample standard deviation over seeds."""
    return percent(value) if spread is None else f"{percent(value)} ± {percent(spread)}"


def interval_text(change: Interval) -> str:
    """`+5.02 [+3.10, +6.94]`"""
    text = "–" if change.value is None else f"{100 * change.value:+.2f}"
    return text if change.low is None else f"{text} [{_bounds(change, ', ')}]"


def _bounds(change: Interval, between: str = " to ") -> str:
    return between.join(f"{100 * bound:+.2f}" for bound in (change.low, change.high) if bound is not None)


def _apart(change: Interval) -> list[str]:
    return ["–" if value is None else f"{100 * value:+.2f}" for value in (change.value, change.low, change.high)]


def _mean(group: Group, part: str, key: str) -> float | None:
    values = [(record.get(part) or {}).get(key) for record in group.records]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _first(group: Group, key: str) -> Any:
    return next((record[key] for record in group.records if record.get(key) is not None), None)


def _scaled(value: float | None, unit: str, size: float) -> str:
    return "–" if value is None else f"{value / size:.2f} {unit}"


def _latency(value: Mapping[str, float] | None) -> str:
    if not value:
        return "–"
    digits = 1 if value["median_ms"] < 100 else 0
    median, low, high = (f"{value[key]:.{digits}f}" for key in ("median_ms", "low_ms", "high_ms"))
    return f"{median} ms ({low}–{high})"


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
