"""Tables of a comparison as HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rmrkd_cli.comparison.types import Comparison, Group, Interval
from rmrkd_cli.report.intervals import between
from rmrkd_cli.terminal.text import NONE, duration, escaped, mean_of, name, percent, points, scaled, size_of

_MOST_SHOWN = 40  # classes, from which on tables are folded away

Record = Mapping[str, Any]
_Get = Callable[[Record], "float | None"]


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str, kind: str = "") -> str:
    """Cells are HTML already; the first of each row is its heading. Scrolls inside its own box."""
    head = "".join(f"<th scope=col>{column}</th>" for column in columns)
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>" for first, *rest in rows
    )
    return (
        f'<div class=wide role=region tabindex=0 aria-label="{escaped(caption)}"><table class="{kind}">'
        f"<caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _metric(key: str) -> _Get:
    return lambda record: record["metrics"][key]


def _of(key: str, inner: str) -> _Get:
    return lambda record: (record.get(key) or {}).get(inner)


# Heading of a column, where its figure comes from, and how it is written.
_SUMMARY: tuple[tuple[str, _Get, Callable[[float | None], str]], ...] = (
    ("mAcc, %", _metric("macc"), percent),
    ("aAcc, %", _metric("aacc"), percent),
    ("parameters", lambda record: record.get("parameters"), lambda value: scaled(value, "M", 1e6)),
    ("MACs", lambda record: record.get("macs"), lambda value: scaled(value, "G", 1e9)),
    ("latency", _of("latency", "median_ms"), lambda value: _latency(value)),
    ("file", lambda record: record.get("checkpoint_bytes"), size_of),
    ("training", _of("training", "seconds"), duration),
    ("a step", _of("training", "seconds_per_step"), lambda value: _step(value)),
)


def _latency(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _step(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f} s"


def summary(comparison: Comparison) -> str:
    """One line a group, means over its seeds; and where there are several, one a seed below."""
    known = [column for column in _SUMMARY if any(column[1](record) is not None for record in comparison.records)]
    several = any(len(group.records) > 1 for group in comparison.groups)
    seeds = ["seeds"] if several else ["seed"]
    columns = ["group", "mIoU, %", *(column[0] for column in known), *seeds]
    rows = [
        [name(group.label), _mean_and_spread(group), *_cells(group.records, known), _seeds(group)]
        for group in comparison.groups
    ]
    caption = "Accuracy, size and cost" + (", means over the seeds" if several else "")
    table = html_table(columns, rows, caption)
    if not several:
        return table
    each = [
        [
            f"{name(group.label)} {_seed(record)}",
            percent(record["metrics"]["miou"]),
            *_cells([record], known),
            _seed(record),
        ]
        for group in comparison.groups
        for record in group.records
    ]
    return f"{table}<details><summary>Every seed</summary>{html_table(columns, each, 'Every seed')}</details>"


def _cells(records: Sequence[Record], known: Sequence[Any]) -> list[str]:
    return [escaped(show(mean_of(records, get))) for _, get, show in known]


def _mean_and_spread(group: Group) -> str:
    spread = "" if group.spread is None else f" <small>± {percent(group.spread)}</small>"
    return f"<b>{percent(group.miou)}</b>{spread}"


def _seeds(group: Group) -> str:
    return escaped(", ".join(NONE if seed is None else str(seed) for seed in group.seeds[:12]))


def _seed(record: Record) -> str:
    seed = record.get("seed")
    return NONE if seed is None else escaped(seed)


def classes(comparison: Comparison) -> str:
    """IoU of every class and group, and the differences with their intervals; accuracy and Dice folded away."""
    differences = comparison.differences
    columns = ["class", *(name(group.label) for group in comparison.groups)]
    columns += [f"{name(one.to)} − {name(one.base)}" for one in differences]
    rows = [
        [
            name(kind),
            *(percent(group.iou[number]) for group in comparison.groups),
            *(_difference(one.classes[number]) for one in differences),
        ]
        for number, kind in enumerate(comparison.classes)
    ]
    means = [percent(group.miou) for group in comparison.groups]
    rows.append(["mean IoU", *means, *(_difference(one.mean) for one in differences)])
    table = html_table(columns, rows, "IoU of each class, %; differences in points, with 95 % intervals", "sums")
    others = "".join(
        html_table(*_of_each(comparison, get), f"{what} of each class, %")
        for what, get in (("Accuracy", lambda group: group.accuracy), ("Dice", lambda group: group.dice))
    )
    if len(rows) > _MOST_SHOWN:
        table = f"<details><summary>IoU of all {len(rows) - 1} classes</summary>{table}</details>"
    return f"{table}<details><summary>Accuracy and Dice of each class</summary>{others}</details>"


def _of_each(
    comparison: Comparison, get: Callable[[Group], Sequence[float | None]]
) -> tuple[list[str], list[list[str]]]:
    rows = [
        [name(kind), *(percent(get(group)[number]) for group in comparison.groups)]
        for number, kind in enumerate(comparison.classes)
    ]
    return ["class", *(name(group.label) for group in comparison.groups)], rows


def _difference(found: Interval) -> str:
    limits = between(found)
    return f"{points(found.value)}" + (f" <small>{limits}</small>" if limits else "")
