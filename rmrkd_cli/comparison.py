"""What a comparison of results says, as plain data: tables, pages and pictures are views of it. Knows no torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from rmrkd_cli.equality import equality_of
from rmrkd_cli.schema import OWN_METHOD

Record = dict[str, Any]

FEWEST_SEEDS = 3
FEW_IMAGES = 30


@dataclass(frozen=True)
class Interval:
    """A figure as a ratio (-1..1), and its 95 % interval where one could be computed; none: never occurs."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Group:
    """Everything of one kind (one preset, role and method): a record, or one for each of several seeds.

    Attributes:
        label: A short name that tells it from the other groups.
        records: Ordered by seed.
        miou: Mean over the records, 0..1; none where no class occurs.
        spread: Sample standard deviation of their mIoU; none for one record.
        iou, accuracy, dice: Of each class, means over the records.
        matrix: The records' confusion matrices added up, rows truth, columns prediction; none where one has none.
    """

    label: str
    role: str | None
    method: str | None
    records: tuple[Record, ...]
    miou: float | None
    spread: float | None
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    dice: tuple[float | None, ...]
    matrix: tuple[tuple[int, ...], ...] | None

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(record.get("seed") for record in self.records)


@dataclass(frozen=True)
class Difference:
    """What one group has more than another: `to` minus `base`.

    Attributes:
        base, to: Labels of groups.
        classes: IoU, each class.
        mean: mIoU.
        by_seed: (seed, difference of mIoU) for each seed that both have.
    """

    base: str
    to: str
    classes: tuple[Interval, ...]
    mean: Interval
    by_seed: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Results measured under one protocol, side by side.

    Attributes:
        differences: To the baseline (to the first group where there is none), the teacher's left out.
        gap: Which share of the way from baseline to teacher the distilled student went, in words; none without all.
        equality: In which respect training was equal (iterations, images, time), and in which not, a line each.
        warnings: What a reader must know before believing the figures.
    """

    protocol: dict[str, Any]
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    gap: str | None
    equality: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def classes(self) -> Sequence[str]:
        names: Sequence[str] = self.protocol["classes"]
        return names

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(record for group in self.groups for record in group.records)


def compare(records: Sequence[Record]) -> Comparison:
    """Groups records of several seeds, and takes the differences with their intervals.

    Args:
        records: Measured under one protocol (`report.check_same_protocol`).
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


def name_teachers(records: Sequence[Record]) -> None:
    """A file without a role that taught one of the others gets the teacher's: they know it by its SHA-256."""
    taught_by = {record["taught_by"] for record in records if record.get("taught_by")}
    for record in records:
        if record.get("role") is None and record.get("checkpoint_sha256") in taught_by:
            record["role"] = "teacher"


def group(records: Sequence[Record], *, seeds: bool = True) -> tuple[Group, ...]:
    """Records of one preset, role, method and length of training, told apart by their seeds alone, are one group.

    Args:
        seeds: False leaves every record alone.
    """
    found: dict[Any, list[Record]] = {}
    for number, record in enumerate(records):
        found.setdefault(_kind_of(record) if seeds else number, []).append(record)
    members = []
    for same in found.values():
        told_apart = len({record.get("seed") for record in same}) == len(same)
        members += [sorted(same, key=_seed)] if told_apart else [[record] for record in same]
    names = labels([of[0] for of in members], seeds=[len(of) > 1 for of in members])
    return tuple(_group(name, of) for name, of in zip(names, members, strict=True))


def label(record: Record) -> str:
    """A short name of what was measured."""
    role, method = record.get("role"), record.get("method")
    if record.get("label"):
        return str(record["label"])
    if role == "distill" and method not in (None, OWN_METHOD):
        return f"{role}-{method}"
    return str(role or _stem(record))


def labels(records: Sequence[Record], *, seeds: Iterable[bool] = ()) -> list[str]:
    """Names that tell records apart: the role and method, then the preset, seed, file, as far as needed.

    Args:
        seeds: Whether a record stands for those of other seeds too, so that its own says nothing.
    """
    several = list(seeds) or [False] * len(records)
    named = [
        {
            "label": label(record),
            "name": str(record.get("name") or "?"),
            "seed": "" if many else f"seed {record.get('seed', '?')}",
            "iterations": f"at {record['iterations']}" if record.get("iterations") is not None else "",
            "file": _stem(record),
            "checkpoint": str(record.get("checkpoint") or "?"),
        }
        for record, many in zip(records, several, strict=True)
    ]
    ways = (
        ("label",), ("name", "label"), ("label", "seed"), ("label", "file"), ("label", "iterations"),
        ("name", "label", "seed"), ("name", "label", "seed", "iterations", "file"), ("checkpoint",),
    )  # fmt: skip
    for way in ways:
        names = [" ".join(filter(None, (of[key] for key in way))) for of in named]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {label(record)}" for number, record in enumerate(records, 1)]


def _kind_of(record: Record) -> Any:
    if record.get("role") is None or not isinstance(record.get("seed"), int):
        return id(record)
    training = record.get("training") or {}
    length = training.get("time_budget") or training.get("iterations") or record.get("iterations")
    return record.get("name"), record["role"], record.get("method"), length


def _seed(record: Record) -> int:
    seed = record.get("seed")
    return seed if isinstance(seed, int) else -1


def _stem(record: Record) -> str:
    name = str(record.get("checkpoint") or "?").replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _group(name: str, records: Sequence[Record]) -> Group:
    mious = [record["metrics"]["miou"] for record in records]
    known = [value for value in mious if value is not None]
    matrices = [record.get("matrix") for record in records]
    return Group(
        label=name,
        role=records[0].get("role"),
        method=records[0].get("method"),
        records=tuple(records),
        miou=statistics.fmean(known) if known else None,
        spread=statistics.stdev(known) if len(known) > 1 else None,
        iou=_means(records, "iou"),
        accuracy=_means(records, "accuracy"),
        dice=_means(records, "dice"),
        matrix=None if any(matrix is None for matrix in matrices) else _added(matrices),
    )


def _means(records: Sequence[Record], key: str) -> tuple[float | None, ...]:
    columns = zip(*(record["metrics"][key] for record in records), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return tuple(statistics.fmean(values) if values else None for values in known)


def _added(matrices: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sum(values) for values in zip(*rows, strict=True)) for rows in zip(*matrices, strict=True))


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
        from rmrkd_cli.bootstrap import counts_of, paired_intervals

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
        told.append(f"{made.label} goes {share:.0f} % of the way from the baseline to the teacher")
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
    images = groups[0].records[0]["protocol"]["images"]
    if differences and images < FEW_IMAGES:
        told.append(f"{images} images are few: intervals over them mean little")
    return told
