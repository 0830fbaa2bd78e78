"""The teacher of a preset: its description, its weights, and where these come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.file_network import FileNetwork
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.networks.weights import load_weights
from rmrkd_cli.presets.network_schema import CheckpointSource
from rmrkd_cli.presets.schema import Preset, Teacher

Log = Callable[[str], None]


def teacher_source(preset: Preset) -> CheckpointSource:
    """Return the checkpoint that a preset names for its teacher.

    Raises:
        RmrkdError: It names none.
    """
    if preset.teacher.checkpoint is None:
        raise RmrkdError(
            f"preset `{preset.name}` needs a trained teacher, and no checkpoint is given",
            f"rmrkd train --preset {preset.name} --role all, or --teacher-checkpoint FILE",
        )
    return preset.teacher.checkpoint


def describe_teacher(teacher: Teacher, num_classes: int, info: DatasetInfo | None) -> dict[str, Any]:
    """Return the description of a preset's teacher by which its stored outputs are known; a file's name is no part."""
    config = network_config(teacher, num_classes, info)
    return {**config, "file": None} if teacher.is_file else config


class BuiltTeacher(NamedTuple):
    """A teacher, the description of its network, and the source of its weights."""

    network: nn.Module
    config: dict[str, Any]
    source: dict[str, str]


def build_teacher(
    preset: Preset,
    num_classes: int,
    *,
    device: str,
    log: Log,
    with_weights: bool = True,
    info: DatasetInfo | None = None,
) -> BuiltTeacher:
    """Build a preset's teacher with the weights that the preset names for it, or load its file.

    Args:
        info: The data set, for a teacher that is a file.

    Raises:
        RmrkdError: It names none, or they do not match.
    """
    config = network_config(preset.teacher, num_classes, info)
    teacher = build_network(config, device=device, name="teacher")
    if isinstance(teacher, FileNetwork):
        log(f"the teacher {teacher.describe()}")
        return BuiltTeacher(teacher, describe_teacher(preset.teacher, num_classes, info), teacher.origin)
    if not with_weights:
        return BuiltTeacher(teacher, config, {})
    source = load_weights(teacher, teacher_source(preset), role="teacher")
    report_partial(source, "teacher", log)
    return BuiltTeacher(teacher, config, source)


def report_partial(source: dict[str, str], what: str, log: Log) -> None:
    """Log which part of a checkpoint `allow_partial` left out."""
    if "partial" in source:
        log(f"only the matching tensors of the {what}'s checkpoint are loaded, the rest is random: {source['partial']}")
