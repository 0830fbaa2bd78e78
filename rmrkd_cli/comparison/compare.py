"""Results measured under one protocol, side by side: differences with their intervals, and what to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from rmrkd_cli.comparison.groups import group
from rmrkd_cli.comparison.training_equality import equality_of
from rmrkd_cli.comparison.types import Comparison, Difference, Group, Interval
from rmrkd_cli.results.record import Record

FEWEST_SEEDS = 3
FEW_IMAGES = 30


def compare(records: Sequence[Record]) -> Comparison:
    """Groups records of several seeds, and takes the differences with their intervals.

    Args:
        records: Measured under one protocol (`comparison.protocol.check_same_protocol`).
    """
    groups = group(records)
    base = _base_of(groups)
    others = [to for to in groups if to is not base and (base.role != "baseline" or to.role != "teacher")]
    differences = tuple(_difference(base, to) for to in others)
    students = [made for made in groups if made.role != "teacher"]
    equal, unequal = equality_of([(made.label, [r.get("training") or {} for r in made.records]) for made in students])
    return Comparison(
        protocol=records[0]["protocol"],
        groups=groups,
        differences=differences,
        gap=_gap(groups),
        equality=tuple(equal),
        warnings=(*unequal, *_warnings(groups, differences)),
    )


def as_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON types, with the records it was made from."""

    def plain(of: Group | Difference) -> dict[str, Any]:
        return {entry.name: getattr(of, entry.name) for entry in fields(of) if entry.name != "records"}

    return {
        "protocol": comparison.protocol,
        "groups": [{**plain(made), "seeds": made.seeds} for made in comparison.groups],
        "differences": [
            {**plain(made), "classes": [asdict(each) for each in made.classes], "mean": asdict(made.mean)}
            for made in comparison.differences
        ],
        "gap": comparison.gap,
        "equality": comparison.equality,
        "warnings": comparison.warnings,
        "results": comparison.records,
    }


def _base_of(groups: Sequence[Group]) -> Group:
    """The baseline; where there is none, or several, the first that is no teacher."""
    baselines = [made for made in groups if made.role == "baseline"]
    students = [made for made in groups if made.role != "teacher"]
    return baselines[0] if len(baselines) == 1 else [*students, *groups][0]


def _difference(base: Group, to: Group) -> Difference:
    before, after = ([record.get("per_image") for record in made.records] for made in (base, to))
    values = [_minus(new, old) for new, old in zip((*to.iou, to.miou), (*base.iou, base.miou), strict=True)]
    if None in before or None in after:
        intervals = [Interval(value) for value in values]
    else:
        from rmrkd_cli.comparison.bootstrap import counts_of, paired_intervals

        classes = len(base.iou)
        counts = [[counts_of(per_image, classes) for per_image in side] for side in (before, after)]
        bounds = paired_intervals(*counts).tolist()
        intervals = [_interval(value, *found) for value, found in zip(values, bounds, strict=True)]
    *each, mean = intervals
    return Difference(base.label, to.label, tuple(each), mean, _by_seed(base, to))


def _interval(value: float | None, low: float, high: float) -> Interval:
    return Interval(value) if value is None or low != low else Interval(value, low, high)  # NaN equals nothing


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _by_seed(base: Group, to: Group) -> tuple[tuple[int, float], ...]:
    before, after = (
        {r["seed"]: r["metrics"]["miou"] for r in made.records if isinstance(r.get("seed"), int)} for made in (base, to)
    )
    pairs = [(seed, _minus(after[seed], before[seed])) for seed in before if seed in after]
    return tuple((seed, value) for seed, value in pairs if value is not None)


def _gap(groups: Sequence[Group]) -> str | None:
    """Which share of the way from baseline to teacher each distilled student went."""
    by_role = {
        role: [made for made in groups if made.role == role and made.miou is not None]
        for role in ("teacher", "baseline", "distill")
    }
    if not by_role["distill"] or any(len(by_role[role]) != 1 for role in ("teacher", "baseline")):
        return None
    teacher, baseline = (by_role[role][0].miou or 0.0 for role in ("teacher", "baseline"))
    told = []
    for made in by_role["distill"]:
        if teacher <= baseline:
            return "there is no gap to close: the teacher is not above the baseline"
        share = 100 * ((made.miou or 0.0) - baseline) / (teacher - baseline)
        told.append(f"{made.label} goes {round(share)} % of the way from the baseline to the teacher")  # no -0
    return "; ".join(told)


def _warnings(groups: Sequence[Group], differences: Sequence[Difference]) -> list[str]:
    told = []
    students = [made for made in groups if made.role in ("baseline", "distill")]
    few = [made for made in students if len(made.records) < FEWEST_SEEDS]
    if few and len(students) > 1:
        counted = ", ".join(f"{made.label} {len(made.records)}" for made in few)
        told.append(
            f"fewer than {FEWEST_SEEDS} seeds ({counted}): reruns of such trainings spread by 0.2 to 0.5 mIoU and "
            "more, which the intervals do not hold"
        )
    if len({made.seeds for made in students}) > 1:
        told.append(
            "the groups were trained with different seeds: "
            + "; ".join(f"{made.label} {', '.join(str(seed) for seed in made.seeds)}" for made in students)
        )
    silent = [made.label for made in groups if any(record.get("per_image") is None for record in made.records)]
    if silent and differences:
        told.append(
            f"no intervals: {', '.join(silent)} without counts of single images; measure again with `rmrkd eval`"
        )
    partial = [made.label for made in groups if any(record.get("partial") for record in made.records)]
    if partial:
        told.append(f"weights were loaded in part and are random else: {', '.join(partial)}")
    images = groups[0].records[0]["protocol"]["images"]
    if differences and images < FEW_IMAGES:
        told.append(f"{images} images are few: intervals over them mean little")
    return told
