"""What is checked before a directory is claimed or a process started: sizes, images, weights."""

from __future__ import annotations

from pathlib import Path

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.check import quick_check
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.image_cache import Store, create
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.distillation.factory import trained_network
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.mmseg import check_weights, fetch_imagenet, fetch_weights, network_config
from rmrkd_cli.presets.schema import CheckpointSource, Preset, Schedule
from rmrkd_cli.terminal.console import Meter, screen


def check(preset: Preset, roles: list[str], *, device: str, workers: int) -> Store | None:
    """Finds every image and every weight file that the roles need, and fetches what is not here yet.

    Args:
        preset: As the user gave it; a teacher that role `all` trains itself comes later.
        workers: Processes over all machines.

    Returns:
        Room for the decoded training images, where the preset wants them kept and there is something to train.

    Raises:
        RmrkdError: On the first thing that is missing or cannot work.
    """
    for role in roles:
        check_batch(preset.schedule_for(role), device=device, workers=workers)
        trained = trained_network(preset, role)
        if role != "teacher":
            _check_file(trained.checkpoint, "student", preset)
    if "distill" in roles:
        _check_file(preset.teacher.checkpoint, "teacher", preset)
    for what in {"teacher" if role == "teacher" else "student" for role in roles} | _taught_by(roles):
        network_config(getattr(preset, what), num_classes=1)
    info = dataset_info(preset)
    samples = {split: find_samples(info, split) for split in ("train", "val")}
    skip_corrupt = preset.schedule.skip_corrupt
    quick_check(info, samples, allow_corrupt=("train",) if skip_corrupt else ())
    _fetch(preset, roles)
    _check_weights(preset, roles, info.num_classes)
    wanted = preset.data.cache != "off" and roles
    files = SampleFiles(info, samples["train"])
    return create(preset.data.cache, files, skip_corrupt=skip_corrupt) if wanted else None


def check_teacher(preset: Preset) -> None:
    """Whether the file of a further teacher, beside the one that `check` looks into, is there and fits its network.

    Raises:
        RmrkdError: When it is not, or does not.
    """
    source = preset.teacher.checkpoint
    _check_file(source, "teacher", preset)
    if source is not None:
        network = network_config(preset.teacher, dataset_info(preset).num_classes)
        check_weights(network, source, what="teacher")


def check_batch(schedule: Schedule, *, device: str, workers: int) -> None:
    """One image a worker is too few unless SyncBN joins several."""
    if schedule.batch_size == 1 and (workers == 1 or device == "cpu"):
        raise RmrkdError(
            "batch size 1: batch norm after global pooling (PSPNet, DeepLabV3) needs two images to normalise over",
            "--batch-size 2, and crop less if memory is short: --set schedule.crop=[256,256]",
        )


def _check_file(source: CheckpointSource | None, what: str, preset: Preset) -> None:
    if source is not None and source.path is not None and not Path(source.path).is_file():
        train_it = "the same command with --role teacher makes it, or " if what == "teacher" else ""
        raise RmrkdError(
            f"the {what}'s checkpoint `{source.path}` does not exist", f"{train_it}--{what}-checkpoint FILE"
        )
    if source is not None and source.path is not None:
        read_checkpoint(source.path, lazy=True)  # here already, before anything slow


def _check_weights(preset: Preset, roles: list[str], num_classes: int) -> None:
    """Every given checkpoint is read and compared with its network, before anything is written."""
    spec = preset.student
    if spec.checkpoint is not None and set(roles) & {"baseline", "distill"}:
        check_weights(network_config(spec, num_classes), spec.checkpoint, what="student")
    if "distill" in roles and preset.teacher.checkpoint is not None:
        check_weights(network_config(preset.teacher, num_classes), preset.teacher.checkpoint, what="teacher")


def _taught_by(roles: list[str]) -> set[str]:
    return {"teacher"} if "distill" in roles else set()


def _fetch(preset: Preset, roles: list[str]) -> None:
    """Downloads happen here, where nobody waits in a collective that times out."""
    with screen() as shown:
        meter: Meter | None = None

        def on_progress(done: int, total: int) -> None:
            nonlocal meter
            meter = meter or shown.meter("download, MiB", total >> 20)
            if meter is not None:
                meter.update(done >> 20)

        for role in roles:
            spec, what = trained_network(preset, role), "teacher" if role == "teacher" else "student"
            if spec.checkpoint is not None and what == "student":
                fetch_weights(spec.checkpoint, what, on_progress)
            elif spec.init == "imagenet":
                fetch_imagenet(network_config(spec, num_classes=1), what, on_progress)
        if "distill" in roles and preset.teacher.checkpoint is not None:
            fetch_weights(preset.teacher.checkpoint, "teacher", on_progress)
        if meter is not None:
            meter.close()
