"""A comparison as plain data. Tables, pages and figures are views of it. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmrkd_cli.results.record import Record


@dataclass(frozen=True)
class Interval:
    """A difference of ratios (-1..1) and its 95 % interval.

    Attributes:
        value: None for a class that never occurs.
        low, high: None where no interval could be computed.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Boundary:
    """The boundary IoU of a group.

    Attributes:
        width: Of the boundaries, as a share of the image's diagonal.
        miou, spread, iou: As in `Group`.
    """

    width: float
    miou: float | None
    spread: float | None
    iou: tuple[float | None, ...]


@dataclass(frozen=True)
class Group:
    """Records of one preset, role and method: one, or one for each of several seeds.

    Attributes:
        label: Unique among the groups.
        records: Ordered by seed.
        miou: Mean over the records, 0..1; None where no class occurs.
        spread: Sample standard deviation of their mIoU; None for one record.
        iou, accuracy, dice: Of each class, means over the records.
        matrix: Sum of the records' confusion matrices, rows truth, columns prediction; None where one is missing.
        boundary: None unless all records have a boundary IoU of one width.
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
    boundary: Boundary | None = None

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(record.get("seed") for record in self.records)


@dataclass(frozen=True)
class Difference:
    """The group `to` minus the group `base`.

    Attributes:
        base, to: Labels of groups.
        classes: IoU of each class, or its boundary IoU.
        mean: mIoU, or the mean boundary IoU.
        by_seed: (seed, difference of the mean) for each seed of both groups.
    """

    base: str
    to: str
    classes: tuple[Interval, ...]
    mean: Interval
    by_seed: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Results of one protocol.

    Attributes:
        differences: To the baseline, without the teacher; without a baseline, to the first student.
        gap: Which share of the gap between baseline and teacher the distilled groups close, in words, or why no share
            is given; None where teacher, baseline or distilled student is missing.
        equality: In which respects training was equal (iterations, images, time) and in which not, a sentence each.
        warnings: Limits of what the differences of IoU mean, a sentence each.
        boundary_differences: Of boundary IoU, between the groups that have it; none if their widths differ.
        boundary_warnings: Why some groups have no such difference, a sentence each.
        latency_notes, latency_warnings: How latency was measured, and why it is unreliable, a sentence each.
    """

    protocol: dict[str, Any]
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    gap: str | None
    equality: tuple[str, ...]
    warnings: tuple[str, ...]
    boundary_differences: tuple[Difference, ...] = ()
    boundary_warnings: tuple[str, ...] = ()
    latency_notes: tuple[str, ...] = ()
    latency_warnings: tuple[str, ...] = ()

    @property
    def classes(self) -> Sequence[str]:
        names: Sequence[str] = self.protocol["classes"]
        return names

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(record for group in self.groups for record in group.records)
