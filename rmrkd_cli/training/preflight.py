"""Checks before a run directory is created or a process started: batch size, images, weights."""

from __future__ import annotations

from pathlib import Path

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.check import quick_check
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.image_cache import CacheFile, create_cache_file
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.distillation.factory import trained_network
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.mmseg import network_config
from rmrkd_cli.networks.weights import check_weights, fetch_imagenet, fetch_weights
from rmrkd_cli.presets.schema import CheckpointSource, Preset, Schedule
from rmrkd_cli.terminal.live_display import ProgressBar, live_display


def check_inputs(preset: Preset, roles: list[str], *, device: str, workers: int) -> CacheFile | None:
    """Check every image and weight file that the roles need, and download the missing weights.

    Args:
        preset: The user's preset. The checkpoint of a teacher that role `all` trains is not checked.
        workers: Worker processes on all machines.

    Returns:
        An image cache for decoded training images, if the preset asks for one and something is trained.

    Raises:
        RmrkdError: For the first file that is missing or cannot be used.
    """
    for role in roles:
        check_batch_size(preset.schedule_for(role), device=device, workers=workers)
        if role != "teacher":
            _check_file(trained_network(preset, role).checkpoint, "student")
    if "distill" in roles:
        _check_file(preset.teacher.checkpoint, "teacher")
    for role in roles:
        network_config(trained_network(preset, role), num_classes=1)
    if "distill" in roles:
        network_config(preset.teacher, num_classes=1)
    info = dataset_info(preset)
    samples = {split: find_samples(info, split) for split in ("train", "val")}
    skip_corrupt = preset.schedule.skip_corrupt
    quick_check(info, samples, allow_corrupt=("train",) if skip_corrupt else ())
    _download_weights(preset, roles)
    _check_weights(preset, roles, info.num_classes)
    if preset.data.cache == "off" or not roles:
        return None
    return create_cache_file(preset.data.cache, SampleFiles(info, samples["train"]), skip_corrupt=skip_corrupt)


def check_teacher(preset: Preset) -> None:
    """Check the teacher's checkpoint of one more seed, after `check_inputs` for the first.

    Raises:
        RmrkdError: When it is missing or does not match its network.
    """
    source = preset.teacher.checkpoint
    _check_file(source, "teacher")
    if source is not None:
        network = network_config(preset.teacher, dataset_info(preset).num_classes)
        check_weights(network, source, role="teacher")


def check_batch_size(schedule: Schedule, *, device: str, workers: int) -> None:
    """Raise RmrkdError for a batch size of 1, unless SyncBN joins the images of several GPUs."""
    if schedule.batch_size == 1 and (workers == 1 or device == "cpu"):
        raise RmrkdError(
            "batch size 1: batch norm after global pooling (PSPNet, DeepLabV3) needs at least two images",
            "--batch-size 2; if memory is short, use a smaller crop: --set schedule.crop=[256,256]",
        )


def _check_file(source: CheckpointSource | None, what: str) -> None:
    if source is None or source.path is None:
        return
    if not Path(source.path).is_file():
        train_it = "train it with --role teacher, or give another file with " if what == "teacher" else ""
        raise RmrkdError(
            f"the {what}'s checkpoint `{source.path}` does not exist", f"{train_it}--{what}-checkpoint FILE"
        )
    read_checkpoint(source.path, lazy=True)  # report a damaged file before anything slow


def _check_weights(preset: Preset, roles: list[str], num_classes: int) -> None:
    """Compare every given checkpoint with its network."""
    if preset.student.checkpoint is not None and set(roles) & {"baseline", "distill"}:
        check_weights(network_config(preset.student, num_classes), preset.student.checkpoint, role="student")
    if "distill" in roles and preset.teacher.checkpoint is not None:
        check_weights(network_config(preset.teacher, num_classes), preset.teacher.checkpoint, role="teacher")


def _download_weights(preset: Preset, roles: list[str]) -> None:
    """Download before training, because a collective operation times out while one worker downloads."""
    with live_display() as terminal:
        progress_bar: ProgressBar | None = None

        def on_progress(done: int, total: int) -> None:
            nonlocal progress_bar
            progress_bar = progress_bar or terminal.progress_bar("download, MiB", total >> 20)
            if progress_bar is not None:
                progress_bar.update(done >> 20)

        for role in roles:
            network, what = trained_network(preset, role), "teacher" if role == "teacher" else "student"
            if network.checkpoint is not None and what == "student":
                fetch_weights(network.checkpoint, what, on_progress)
            elif network.init == "imagenet":
                fetch_imagenet(network_config(network, num_classes=1), what, on_progress)
        if "distill" in roles and preset.teacher.checkpoint is not None:
            fetch_weights(preset.teacher.checkpoint, "teacher", on_progress)
        if progress_bar is not None:
            progress_bar.close()
