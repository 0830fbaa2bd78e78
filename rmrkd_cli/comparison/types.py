"""The parts of a comparison, as plain data: tables, pages and pictures are views of them. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmrkd_cli.results.record import Record


@dataclass(frozen=True)
class Interval:
    """A figure as a ratio (-1..1), and its 95 % interval where one could be computed; none: never occurs."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
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
