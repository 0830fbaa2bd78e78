"""Compare results: groups of seeds, differences with their intervals, and what limits their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rmrkd_cli.checkpoints.file_formats import network_file_format
from rmrkd_cli.comparison.differences import boundary_differences, boundary_warnings, iou_difference
from rmrkd_cli.comparison.gap import gap_text
from rmrkd_cli.comparison.groups import group_records
from rmrkd_cli.comparison.latency_notes import Timed, latency_notes, latency_warnings
from rmrkd_cli.comparison.training_equality import describe_training, describe_training_images
from rmrkd_cli.comparison.types import Comparison, Difference, Group
from rmrkd_cli.results.record import Record
from rmrkd_cli.terminal.text import plural

MIN_SEEDS = 3
MIN_IMAGES = 30


def compare(records: Sequence[Record]) -> Comparison:
    """Group the records by seeds, and compute the differences between the groups.

    Args:
        records: Of one protocol, see `comparison.protocol.check_same_protocol`.
    """
    groups = group_records(records)
    base = _base_group(groups)
    others = [group for group in groups if group is not base and (base.role != "baseline" or group.role != "teacher")]
    differences = tuple(iou_difference(base, other) for other in others)
    students = [group for group in groups if group.role != "teacher"]
    timed = _timed(groups)
    trainings = [(group.label, _training_of(group)) for group in students]
    equal, unequal = describe_training(trainings)
    return Comparison(
        protocol=records[0]["protocol"],
        groups=groups,
        differences=differences,
        gap=gap_text(groups, iou_difference),
        equality=(*equal, *describe_training_images(trainings)),
        warnings=(*unequal, *_warnings(groups, differences)),
        boundary_differences=boundary_differences(base, others),
        boundary_warnings=tuple(boundary_warnings(groups)),
        latency_notes=tuple(latency_notes(timed)),
        latency_warnings=tuple(latency_warnings(timed)),
    )


def as_document(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison and its records as JSON types."""

    def to_dict(group: Group) -> dict[str, Any]:
        parts = {entry.name: getattr(group, entry.name) for entry in fields(group) if entry.name != "records"}
        return {**parts, "seeds": group.seeds, "boundary": asdict(group.boundary) if group.boundary else None}

    return {
        "protocol": comparison.protocol,
        "groups": [to_dict(group) for group in comparison.groups],
        "differences": [asdict(difference) for difference in comparison.differences],
        "boundary_differences": [asdict(difference) for difference in comparison.boundary_differences],
        "gap": comparison.gap,
        "equality": comparison.equality,
        "warnings": [*comparison.warnings, *comparison.boundary_warnings, *comparison.latency_warnings],
        "latency_notes": comparison.latency_notes,
        "results": comparison.records,
    }


def _training_of(group: Group) -> list[dict[str, Any]]:
    return [record.get("training") or {} for record in group.records]


def _timed(groups: Sequence[Group]) -> list[Timed]:
    first = [next((record for record in group.records if record.get("latency")), None) for group in groups]
    pairs = zip(groups, first, strict=True)
    return [Timed(group.label, record["latency"], _torch_macs(record)) for group, record in pairs if record is not None]


def _torch_macs(record: Record) -> int | None:
    """Return the MACs of a network that runs in torch; a file's time also depends on its runtime and number format."""
    exported = network_file_format(Path(str(record.get("checkpoint") or "")))
    return None if exported else record.get("macs")


def _base_group(groups: Sequence[Group]) -> Group:
    """Return the baseline; without exactly one baseline, the first group that is not a teacher."""
    baselines = [group for group in groups if group.role == "baseline"]
    students = [group for group in groups if group.role != "teacher"]
    return baselines[0] if len(baselines) == 1 else [*students, *groups][0]


def _warnings(groups: Sequence[Group], differences: Sequence[Difference]) -> list[str]:
    """Return the limits of the comparison, one sentence each."""
    warnings = []
    students = [group for group in groups if group.role in ("baseline", "distill")]
    few = [group for group in students if len(group.records) < MIN_SEEDS]
    if few and len(students) > 1:
        counts = ", ".join(f"{group.label} {len(group.records)}" for group in few)
        warnings.append(
            f"fewer than {MIN_SEEDS} seeds ({counts}): mIoU varies by 0.2 to 0.5 points and more between seeds, "
            "which the intervals do not cover"
        )
    if len({group.seeds for group in students}) > 1:
        seeds = "; ".join(f"{group.label} {', '.join(map(str, group.seeds))}" for group in students)
        warnings.append(f"the groups were trained with different seeds: {seeds}")
    without = [group.label for group in groups if any(record.get("per_image") is None for record in group.records)]
    if without and differences:
        warnings.append(
            f"no intervals: {', '.join(without)} without counts of single images; evaluate again with `rmrkd eval`"
        )
    partial = [group.label for group in groups if any(record.get("partial") for record in group.records)]
    if partial:
        warnings.append(f"only a part of the weights was loaded, the rest is random: {', '.join(partial)}")
    images = groups[0].records[0]["protocol"]["images"]
    if differences and images < MIN_IMAGES:
        warnings.append(f"{plural(images, 'image')} in the split: too few for reliable intervals")
    return warnings
