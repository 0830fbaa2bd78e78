"""Tables of a comparison: once as text for CSV files, and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rmrkd_cli.comparison import Comparison, Group, Interval
from rmrkd_cli.page.words import (
    NONE,
    between,
    duration,
    escaped,
    mean_of,
    name,
    percent,
    points,
    scaled,
    size_of,
)

Table = tuple[list[str], list[list[str]]]
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
    return lambda record: record["metrics"][key]  # type: ignore[no-any-return]


def _of(key: str, inner: str) -> _Get:
    return lambda record: (record.get(key) or {}).get(inner)  # type: ignore[no-any-return]


# Heading of a column, its unit, where its figure comes from, and how it is written.
_SUMMARY: tuple[tuple[str, str, _Get, Callable[[float | None], str], Callable[[float | None], str]], ...]


def _plain(digits: int, size: float = 1.0) -> Callable[[float | None], str]:
    return lambda value: "" if value is None else f"{value / size:.{digits}f}"


_SUMMARY = (
    ("mAcc", "%", _metric("macc"), percent, _plain(4, 0.01)),
    ("aAcc", "%", _metric("aacc"), percent, _plain(4, 0.01)),
    ("parameters", "", lambda record: record.get("parameters"), lambda value: scaled(value, "M", 1e6), _plain(0)),
    ("MACs", "", lambda record: record.get("macs"), lambda value: scaled(value, "G", 1e9), _plain(0)),
    ("latency", "ms", _of("latency", "median_ms"), lambda value: _latency(value), _plain(3)),
    ("file", "bytes", lambda record: record.get("checkpoint_bytes"), size_of, _plain(0)),
    ("training", "s", _of("training", "seconds"), duration, _plain(3)),
    ("a step", "s", _of("training", "seconds_per_step"), lambda value: _step(value), _plain(6)),
)


def _latency(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _step(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f} s"


def summary(comparison: Comparison) -> str:
    """One line a group, means over its seeds; and where there are several, one a seed below."""
    known = [column for column in _SUMMARY if any(column[2](record) is not None for record in comparison.records)]
    several = any(len(group.records) > 1 for group in comparison.groups)
    seeds = ["seeds"] if several else ["seed"]
    columns = ["group", "mIoU, %", *(column[0] + (", %" if column[1] == "%" else "") for column in known), *seeds]
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
    return [escaped(show(mean_of(records, get))) for _, _, get, show, _ in known]


def _mean_and_spread(group: Group) -> str:
    spread = "" if group.spread is None else f" <small>± {percent(group.spread)}</small>"
    return f"<b>{percent(group.miou)}</b>{spread}"


def _seeds(group: Group) -> str:
    return escaped(", ".join(NONE if seed is None else str(seed) for seed in group.seeds[:12]))


def _seed(record: Record) -> str:
    seed = record.get("seed")
    return NONE if seed is None else escaped(seed)


def summary_csv(comparison: Comparison) -> Table:
    """Plain figures in the units that the headings name."""
    columns = ["group", "role", "method", "seeds", "mIoU %", "mIoU standard deviation"]
    columns += [f"{heading} {unit}".strip() for heading, unit, *_ in _SUMMARY]
    rows = []
    for group in comparison.groups:
        seeds = " ".join("" if seed is None else str(seed) for seed in group.seeds)
        row = [group.label, group.role or "", group.method or "", seeds, _points4(group.miou), _points4(group.spread)]
        rows.append([*row, *(plain(mean_of(group.records, get)) for _, _, get, _, plain in _SUMMARY)])
    return columns, rows


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


def classes_csv(comparison: Comparison) -> Table:
    """In percent and points; the limits of intervals in columns of their own, where any is known."""
    columns = ["class", *(group.label for group in comparison.groups)]
    with_limits = [any(found.low is not None for found in (*one.classes, one.mean)) for one in comparison.differences]
    for one, limits in zip(comparison.differences, with_limits, strict=True):
        what = f"{one.to} - {one.base}"
        columns += [what, f"{what}, low", f"{what}, high"] if limits else [what]

    def row(kind: str, values: Sequence[float | None], found: Sequence[Interval]) -> list[str]:
        cells = [kind, *map(percent, values)]
        for one, limits in zip(found, with_limits, strict=True):
            cells.append(_plus(one.value))
            cells += [_plus(one.low), _plus(one.high)] if limits else []
        return cells

    rows = [
        row(kind, [group.iou[k] for group in comparison.groups], [one.classes[k] for one in comparison.differences])
        for k, kind in enumerate(comparison.classes)
    ]
    means = [group.miou for group in comparison.groups]
    return columns, [*rows, row("mean IoU", means, [one.mean for one in comparison.differences])]


def _plus(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:+.2f}"


def _points4(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"
