"""Differences of IoU and of boundary IoU between groups of seeds, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rmrkd_cli.comparison.types import Difference, Group, Interval
from rmrkd_cli.terminal.text import join_and, shorten

_MEASURE = "compare the checkpoints with `--boundary-iou`"


class _Scores(NamedTuple):
    """What a difference is computed from.

    Attributes:
        values: IoU of each class and their mean, means over the records.
        by_seed: Mean IoU of each record with a seed.
        counts: A record's counts of single images, under `counts`; None where it has none.
    """

    label: str
    values: Sequence[float | None]
    by_seed: Mapping[int, float | None]
    counts: Sequence[Mapping[str, Any] | None]


def iou_difference(base: Group, to: Group) -> Difference:
    """Return the group `to` minus the group `base`: IoU of each class and mIoU."""
    return _difference(_iou_scores(base), _iou_scores(to))


def boundary_differences(base: Group, others: Sequence[Group]) -> tuple[Difference, ...]:
    """Return the differences of boundary IoU to the base, of the groups that have it; none with several widths."""
    if base.boundary is None or boundary_width((base, *others)) is None:
        return ()
    measured = [group for group in others if group.boundary]
    return tuple(_difference(_boundary_scores(base), _boundary_scores(group)) for group in measured)


def boundary_width(groups: Sequence[Group]) -> float | None:
    """Return the width of the boundaries if that of all groups that have boundary IoU is the same, else None."""
    widths = {group.boundary.width for group in groups if group.boundary}
    return widths.pop() if len(widths) == 1 else None


def boundary_warnings(groups: Sequence[Group]) -> list[str]:
    """Return why the boundary IoU of some groups is not compared, a sentence each; none where no record has it."""
    if all(record.get("boundary") is None for group in groups for record in group.records):
        return []
    without = [shorten(group.label) for group in groups if _widths(group) == {None}]
    in_part = [shorten(group.label) for group in groups if None in _widths(group) and len(_widths(group)) > 1]
    widths = {width for group in groups for width in _widths(group) - {None}}
    lines = [f"no boundary IoU of {join_and(without)}: the result has none; {_MEASURE}"] if without else []
    if in_part:
        lines.append(f"no boundary IoU of {join_and(in_part)}: only some of its seeds have it; {_MEASURE}")
    if len(widths) > 1:
        each = join_and([f"{shorten(group.label)} {_widths_text(group)}" for group in groups if _widths_text(group)])
        lines.append(f"boundary IoU is not compared, as the widths of the boundaries differ: {each}; {_MEASURE}")
    return lines


def _widths(group: Group) -> set[float | None]:
    return {(record.get("boundary") or {}).get("width") for record in group.records}


def _widths_text(group: Group) -> str:
    return " and ".join(f"{width:g}" for width in sorted(_widths(group) - {None}))  # type: ignore[type-var]


def _iou_scores(group: Group) -> _Scores:
    seeds = {r["seed"]: r["metrics"]["miou"] for r in group.records if isinstance(r.get("seed"), int)}
    counts = [record.get("per_image") for record in group.records]
    return _Scores(group.label, (*group.iou, group.miou), seeds, counts)


def _boundary_scores(group: Group) -> _Scores:
    assert group.boundary is not None
    seeds = {r["seed"]: r["boundary"]["miou"] for r in group.records if isinstance(r.get("seed"), int)}
    counts = [record["boundary"] for record in group.records]
    return _Scores(group.label, (*group.boundary.iou, group.boundary.miou), seeds, counts)


def _difference(base: _Scores, to: _Scores) -> Difference:
    values = [_subtract(new, old) for new, old in zip(to.values, base.values, strict=True)]
    if None in base.counts or None in to.counts:
        intervals = [Interval(value) for value in values]
    else:
        from rmrkd_cli.comparison.bootstrap import counts_of, paired_intervals

        classes = len(values) - 1
        counts = [[counts_of(per_image, classes) for per_image in side.counts] for side in (base, to)]
        bounds = paired_intervals(*counts).tolist()
        intervals = [_interval(value, low, high) for value, (low, high) in zip(values, bounds, strict=True)]
    *of_classes, mean = intervals
    return Difference(base.label, to.label, tuple(of_classes), mean, _differences_by_seed(base.by_seed, to.by_seed))


def _interval(value: float | None, low: float, high: float) -> Interval:
    return Interval(value) if value is None or low != low else Interval(value, low, high)  # low may be NaN


def _subtract(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _differences_by_seed(
    base: Mapping[int, float | None], to: Mapping[int, float | None]
) -> tuple[tuple[int, float], ...]:
    pairs = [(seed, _subtract(to[seed], base[seed])) for seed in base if seed in to]
    return tuple((seed, value) for seed, value in pairs if value is not None)
