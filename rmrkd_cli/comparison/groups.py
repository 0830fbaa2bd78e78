"""Which records belong together, and what they are called."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from rmrkd_cli.comparison.types import Group
from rmrkd_cli.presets.schema import OWN_METHOD
from rmrkd_cli.results.record import Record


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
        abbreviate_labels = len({record.get("seed") for record in same}) == len(same)
        members += [sorted(same, key=_seed)] if abbreviate_labels else [[record] for record in same]
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
