"""What a result says of each class: its three metrics, and what it is taken for."""

from __future__ import annotations

from collections.abc import Sequence

from rmrkd_cli.report.tables import percent
from rmrkd_cli.results.csv import Table
from rmrkd_cli.results.record import Record

_MOST_TAKEN = 3  # classes named in the narrow form
_CELL = 4  # columns of the wide form's figures
_FRAME = 8  # columns that a table spends on its lines


def metrics_table(record: Record) -> Table:
    """IoU, accuracy and Dice of every class, and the mean of each."""
    metrics = record["metrics"]
    kinds = [metrics[key] for key in ("iou", "accuracy", "dice")]
    rows = [[name, *map(percent, values)] for name, *values in zip(record["protocol"]["classes"], *kinds, strict=True)]
    means = [metrics["miou"], metrics["macc"], metrics.get("mdice")]
    return ["class", "IoU", "Acc", "Dice"], [*rows, ["mean", *map(percent, means)]]


def confusion_table(record: Record, width: int) -> Table:
    """Which share of the pixels of each class (row) is predicted as which (column), in percent.

    Args:
        width: Columns there are. Where all classes do not fit, each class names those it is most often taken for.
    """
    names = [f"{number} {name}" for number, name in enumerate(record["protocol"]["classes"])]
    needed = max(map(len, names)) + _CELL * len(names) + _FRAME
    return _wide(names, record["matrix"]) if needed <= width else _narrow(names, record["matrix"])


def _wide(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> Table:
    """Whole percent; a point is less than half of one, but not none."""
    rows = []
    for name, counts in zip(names, matrix, strict=True):
        total = sum(counts)
        cells = [_whole_percent(count, total) for count in counts] if total else ["–"] * len(counts)
        rows.append([name, "".join(cell.rjust(_CELL) for cell in cells)])
    header = "".join(str(number).rjust(_CELL) for number in range(len(names)))
    return ["class", header], rows


def _whole_percent(count: int, total: int) -> str:
    shown = f"{100 * count / total:.0f}"
    return "." if shown == "0" and count else shown


def _narrow(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> Table:
    rows = []
    for k, counts in enumerate(matrix):
        total = sum(counts)
        others = sorted((other for other in range(len(counts)) if other != k), key=lambda other: -counts[other])
        taken = [f"{names[other]} {100 * counts[other] / total:.1f}" for other in others[:_MOST_TAKEN] if counts[other]]
        rows.append([names[k], percent(counts[k] / total if total else None, 1), ", ".join(taken) or "–"])
    return ["class", "right", "most often taken for"], rows
