"""Tables of one result: the metrics of each class, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from rmrkd_cli.results.csv import Table
from rmrkd_cli.results.record import Record
from rmrkd_cli.terminal.text import NONE, format_percent

_LISTED = 3  # confusions of a class in the narrow table
_CELL = 4  # columns of a number in the wide table
_BORDER = 8  # columns of a table's lines


def metrics_table(record: Record) -> Table:
    """Return IoU, accuracy and Dice of each class in percent, boundary IoU if it was measured, and their means."""
    metrics, classes = record["metrics"], record["protocol"]["classes"]
    columns = [metrics[key] for key in ("iou", "accuracy", "dice")]
    names = ["class", "IoU", "Acc", "Dice"]
    means = [metrics["miou"], metrics["macc"], metrics.get("mdice")]
    if boundary := record.get("boundary"):
        columns, names, means = [*columns, boundary["iou"]], [*names, "Boundary IoU"], [*means, boundary["miou"]]
    rows = [[name, *map(format_percent, values)] for name, *values in zip(classes, *columns, strict=True)]
    return names, [*rows, ["mean", *map(format_percent, means)]]


def confusion_table(record: Record, width: int) -> Table:
    """Return, for each true class (row), the share of its pixels predicted as each class, in percent.

    Args:
        width: Columns of the terminal. Where the matrix does not fit, each class lists its largest confusions.
    """
    names = [f"{number} {name}" for number, name in enumerate(record["protocol"]["classes"])]
    needed = max(map(len, names)) + _CELL * len(names) + _BORDER
    return _wide_table(names, record["matrix"]) if needed <= width else _narrow_table(names, record["matrix"])


def _wide_table(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> Table:
    """Return whole percent; `.` is a share below half a percent, but not zero."""
    rows = []
    for name, counts in zip(names, matrix, strict=True):
        total = sum(counts)
        cells = [_whole_percent(count, total) for count in counts] if total else [NONE] * len(counts)
        rows.append([name, "".join(cell.rjust(_CELL) for cell in cells)])
    header = "".join(str(number).rjust(_CELL) for number in range(len(names)))
    return ["class", header], rows


def _whole_percent(count: int, total: int) -> str:
    text = f"{100 * count / total:.0f}"
    return "." if text == "0" and count else text


def _narrow_table(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> Table:
    rows = []
    for k, counts in enumerate(matrix):
        total = sum(counts)
        others = sorted((other for other in range(len(counts)) if other != k), key=lambda other: -counts[other])
        largest = [f"{names[other]} {100 * counts[other] / total:.1f}" for other in others[:_LISTED] if counts[other]]
        rows.append([names[k], format_percent(counts[k] / total if total else None, 1), ", ".join(largest) or NONE])
    return ["class", "correct", "most often predicted as"], rows
