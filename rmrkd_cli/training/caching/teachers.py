"""Find the teachers of presets, check them, and build them with their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.distillation.teacher import build_teacher, teacher_source
from rmrkd_cli.distillation.teacher_outputs import TeacherFile, network_digest
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.networks.libraries import resolve_weights
from rmrkd_cli.presets.network_schema import CheckpointSource
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.terminal.messages import log
from rmrkd_cli.training.plan import WORK_DIRS
from rmrkd_cli.training.preflight import check_class_order, check_teacher
from rmrkd_cli.training.weight_files import WeightFile, download_weights


def check_teachers(presets: Sequence[Preset]) -> list[Preset]:
    """Return the presets with a checkpoint for each teacher, after downloading and checking it.

    A preset without a checkpoint gets that of the teacher which `rmrkd train --role teacher` trained.

    Raises:
        RmrkdError: A checkpoint is missing, cannot be downloaded, or does not match its network or the classes.
    """
    for preset in presets:
        if preset.teacher.gives_only_features:
            raise RmrkdError(
                f"the teacher of `{preset.name}`, `{preset.teacher.name}`, gives no logits, which are what is stored",
                "train without stored outputs: its features are computed in every step",
            )
    found = [_with_checkpoint(resolve_weights(preset)) for preset in presets]
    sources = [(preset, teacher_source(preset)) for preset in found if not preset.teacher.is_file]
    download_weights(WeightFile("teacher", preset.teacher, source, is_start=False) for preset, source in sources)
    for preset in found:
        check_teacher(preset)
    for preset, source in sources:
        check_class_order(source, dataset_info(preset))
    return found


def _with_checkpoint(preset: Preset) -> Preset:
    trained = WORK_DIRS / preset.name / "teacher" / "student.pth"
    if preset.teacher.is_trained or not trained.is_file():
        return preset
    log(f"teacher of `{preset.name}`: {trained}")
    teacher = preset.teacher.model_copy(update={"checkpoint": CheckpointSource(path=str(trained))})
    return preset.model_copy(update={"teacher": teacher})


def load_teachers(
    presets: Sequence[Preset], info: DatasetInfo, device: torch.device, log: Callable[[str], None]
) -> tuple[list[nn.Module], tuple[TeacherFile, ...]]:
    """Return the teachers, ready for inference on a device, and their files.

    Raises:
        RmrkdError: A teacher cannot be built, or its file is missing or does not match.
    """
    networks, files = [], []
    for preset in presets:
        built = build_teacher(preset, info.num_classes, device=device.type, log=log, info=info)
        networks.append(inference_network(built.network.to(device), device.type))
        files.append(
            TeacherFile(
                preset=preset.name,
                network=network_digest(built.config),
                sha256=built.source["sha256"],
                source=Path(built.source["source"]).name,
            )
        )
    return networks, tuple(files)
