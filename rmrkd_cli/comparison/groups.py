"""Groups of records that differ only in their seed, and short labels for records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rmrkd_cli.comparison.types import Boundary, Group
from rmrkd_cli.presets.schema import OWN_METHOD
from rmrkd_cli.results.record import Record
from rmrkd_cli.results.training_images import describe_images


def mark_teachers(records: Sequence[Record]) -> None:
    """Set the role `teacher` on records without a role whose file taught another one, known by its SHA-256."""
    teachers = {record["taught_by"] for record in records if record.get("taught_by")}
    for record in records:
        if record.get("role") is None and record.get("checkpoint_sha256") in teachers:
            record["role"] = "teacher"


def group_records(records: Sequence[Record], *, seeds: bool = True) -> tuple[Group, ...]:
    """Return groups of records that differ in the seed alone.

    They have the same preset, role and method, and were trained equally long, with as many images and masks.

    Args:
        seeds: False makes a group of each record.
    """
    by_kind: dict[Any, list[Record]] = {}
    for number, record in enumerate(records):
        by_kind.setdefault(_kind_of(record) if seeds else number, []).append(record)
    members = []
    for same in by_kind.values():
        distinct_seeds = len({record.get("seed") for record in same}) == len(same)
        members += [sorted(same, key=_seed)] if distinct_seeds else [[record] for record in same]
    names = unique_labels([group[0] for group in members], several_seeds=[len(group) > 1 for group in members])
    return tuple(_group(name, group) for name, group in zip(names, members, strict=True))


def label_of(record: Record) -> str:
    """Return a short label: the record's own, else role and method, else the name of its file."""
    role, method = record.get("role"), record.get("method")
    if record.get("label"):
        return str(record["label"])
    if role == "distill" and method not in (None, OWN_METHOD):
        return f"{role}-{method}"
    return str(role or _file_stem(record))


def unique_labels(records: Sequence[Record], *, several_seeds: Iterable[bool] = ()) -> list[str]:
    """Return a label for each record, no two alike: with preset, seed, iterations or file where needed.

    Args:
        several_seeds: Whether a record represents several seeds. Its label then omits the seed.
    """
    several = list(several_seeds) or [False] * len(records)
    parts = [
        {
            "label": label_of(record),
            "name": str(record.get("name") or "?"),
            "images": f"on {images}" if (images := describe_images(record.get("training") or {})) else "",
            "seed": "" if many else f"seed {record.get('seed', '?')}",
            "iterations": f"at {record['iterations']}" if record.get("iterations") is not None else "",
            "file": _file_stem(record),
            "file name": _file_name(record),
            "checkpoint": str(record.get("checkpoint") or "?"),
        }
        for record, many in zip(records, several, strict=True)
    ]
    candidates = (
        ("label",), ("name", "label"), ("label", "images"), ("label", "seed"), ("label", "file"),
        ("label", "iterations"), ("label", "file name"),
        ("name", "label", "seed"), ("name", "label", "seed", "iterations", "file"), ("checkpoint",),
    )  # fmt: skip
    for keys in candidates:
        names = [" ".join(filter(None, (part[key] for key in keys))) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {label_of(record)}" for number, record in enumerate(records, 1)]


def _kind_of(record: Record) -> Any:
    """Return what the records of one group have in common; a record without role or seed is alone."""
    if record.get("role") is None or not isinstance(record.get("seed"), int):
        return id(record)
    training = record.get("training") or {}
    length = training.get("time_budget") or training.get("iterations") or record.get("iterations")
    return record.get("name"), record["role"], record.get("method"), length, describe_images(training)


def _seed(record: Record) -> int:
    seed = record.get("seed")
    return seed if isinstance(seed, int) else -1


def _file_name(record: Record) -> str:
    return str(record.get("checkpoint") or "?").replace("\\", "/").rstrip("/").rpartition("/")[2]


def _file_stem(record: Record) -> str:
    name = _file_name(record)
    return name.rpartition(".")[0] or name


def _group(label: str, records: Sequence[Record]) -> Group:
    miou, spread = _mean_and_spread([record["metrics"]["miou"] for record in records])
    matrices = [record.get("matrix") for record in records]
    return Group(
        label=label,
        role=records[0].get("role"),
        method=records[0].get("method"),
        records=tuple(records),
        miou=miou,
        spread=spread,
        iou=_means([record["metrics"]["iou"] for record in records]),
        accuracy=_means([record["metrics"]["accuracy"] for record in records]),
        dice=_means([record["metrics"]["dice"] for record in records]),
        matrix=None if any(matrix is None for matrix in matrices) else _sum_matrices(matrices),
        boundary=_boundary([record.get("boundary") for record in records]),
    )


def _boundary(parts: Sequence[Mapping[str, Any] | None]) -> Boundary | None:
    measured = [part for part in parts if part is not None]
    if len(measured) < len(parts) or len({part["width"] for part in measured}) > 1:
        return None
    miou, spread = _mean_and_spread([part["miou"] for part in measured])
    return Boundary(measured[0]["width"], miou, spread, _means([part["iou"] for part in measured]))


def _mean_and_spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation of the values that are known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None


def _means(rows: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
    """Return the mean over the records of each class, from a row of values for each record."""
    known = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
    return tuple(statistics.fmean(values) if values else None for values in known)


def _sum_matrices(matrices: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True))
