"""Checks before a run directory is created or a process started: networks, losses, images, weights, disk space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.check import quick_check
from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.image_cache import CacheFile, create_cache_file
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.sample_table import Sample, SampleTable
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.unlabelled import UNLABELLED, find_unlabelled
from rmrkd_cli.distillation.factory import trained_network
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.libraries import build_outline, network_config
from rmrkd_cli.networks.weights import check_weights, fetch_weights
from rmrkd_cli.presets.network_schema import CheckpointSource
from rmrkd_cli.presets.schema import Preset, Schedule
from rmrkd_cli.terminal.messages import log
from rmrkd_cli.training.disk_check import check_disk_space
from rmrkd_cli.training.label_check import check_labels
from rmrkd_cli.training.network_check import Outlines, check_networks
from rmrkd_cli.training.plan import Run
from rmrkd_cli.training.stored_check import check_stored_outputs
from rmrkd_cli.training.weight_files import WeightFile, describe_downloads, download_weights, weight_files


def check_inputs(
    preset: Preset,
    runs: Sequence[Run],
    *,
    device: str,
    workers: int,
    code: Sequence[str] = (),
    fresh: bool = False,
    is_first_node: bool = True,
) -> CacheFile | None:
    """Check everything that the runs need, for all roles before the first one starts, and download missing weights.

    Args:
        preset: The user's preset. The checkpoint of a teacher that role `all` trains is not checked.
        runs: What is left to train.
        workers: Worker processes on all machines.
        code: Python files that the command line names.
        fresh: Existing run directories are renamed.
        is_first_node: This machine writes the run directories.

    Returns:
        An image cache for decoded training images, if the preset asks for one and something is trained.

    Raises:
        RmrkdError: For the first input that is missing or cannot be used.
    """
    roles = list(dict.fromkeys(run.role for run in runs))
    check_labels(preset, roles)
    check_files(preset, roles, device=device, workers=workers)
    info = dataset_info(preset)
    samples = _find_all(info, roles)
    outlines = check_networks(preset, roles, info.num_classes, code, info)
    if is_first_node:
        check_disk_space(runs, outlines, fresh=fresh)
    _check_images(preset, info, roles, samples)
    train = samples["train"] + samples[UNLABELLED] if UNLABELLED in samples else samples["train"]
    check_stored_outputs([run.preset for run in runs], info, train)
    files = list(weight_files(preset, roles))
    download_weights(files)
    for file in files:
        _check_contents(file, outlines, info)
    if preset.data.cache == "off" or not roles:
        return None
    images = SampleFiles(info, train)
    return create_cache_file(preset.data.cache, images, skip_corrupt=preset.schedule.skip_corrupt)


def _find_all(info: DatasetInfo, roles: Sequence[str]) -> dict[str, SampleTable]:
    samples = {split: find_samples(info, split) for split in ("train", "val")}
    if info.unlabelled is not None and "distill" in roles:
        samples[UNLABELLED] = find_unlabelled(info.unlabelled)
    return samples


def _check_images(
    preset: Preset, info: DatasetInfo, roles: Sequence[str], samples: Mapping[str, Sequence[Sample]] | None = None
) -> None:
    allow_corrupt = ("train", UNLABELLED) if preset.schedule.skip_corrupt else ()
    quick_check(info, samples if samples is not None else _find_all(info, roles), allow_corrupt=allow_corrupt, log=log)


def find_problems(
    plan: Sequence[Run],
    info: DatasetInfo,
    device: str,
    code: Sequence[str],
    *,
    resume: bool,
    fresh: bool,
    force: bool,
) -> Iterator[str]:
    """Check the runs of one seed as `check_inputs` does, without downloads, and yield what training would stop on.

    Args:
        resume, fresh, force: As for `train`.

    Raises:
        RmrkdError: When a network, loss or checkpoint cannot be used, which no file or folder on this machine changes.
    """
    preset, roles = plan[-1].preset, [run.role for run in plan]
    check_labels(preset, roles)
    check_feature_teacher(preset, roles)
    for role in roles:
        check_batch_size(preset.schedule_for(role), device=device, workers=1)
    outlines = check_networks(preset, roles, info.num_classes, code, info)
    in_plan = plan[-1].teacher_in_plan  # its file is written by the first run
    files = [file for file in weight_files(preset, roles) if not (in_plan and file.source == preset.teacher.checkpoint)]
    for file in files:
        if file.is_present():
            _check_contents(file, outlines, info)
    yield from (f"  {line}" for line in describe_downloads(files))
    checks: list[Callable[[], object]] = [partial(_check_present, file) for file in files]
    checks.append(partial(_check_images, preset, info, roles))
    checks.append(partial(check_stored_outputs, [run.preset for run in plan], info))
    checks += [partial(run.run_dir.check_usable, run.preset, resume=resume, fresh=fresh, force=force) for run in plan]
    for check in checks:
        try:
            check()
        except RmrkdError as error:
            yield f"  training would stop: {error.message}" + (f" (hint: {error.hint})" if error.hint else "")


def _check_present(file: WeightFile) -> None:
    if file.source is not None:
        check_file(file.source, file.what)


def check_files(preset: Preset, roles: Sequence[str], *, device: str, workers: int) -> None:
    """Check the batch sizes, that checkpoints exist and can be read, and the names of configs.

    Raises:
        RmrkdError: For the first that is wrong.
    """
    for role in roles:
        check_batch_size(preset.schedule_for(role), device=device, workers=workers)
        if role != "teacher":
            check_file(trained_network(preset, role).checkpoint, "student")
    if "teacher" in roles and preset.teacher.is_file:
        raise RmrkdError(
            f"the role `teacher` trains a network, and the teacher is the file `{preset.teacher.file}`",
            "--role distill distils from it",
        )
    check_feature_teacher(preset, roles)
    if "distill" in roles and preset.teacher.outputs is None:
        check_file(preset.teacher.checkpoint, "teacher")
    for role in roles:
        network_config(trained_network(preset, role), num_classes=1)
    if "distill" in roles and preset.teacher.outputs is None:
        network_config(preset.teacher, num_classes=1)
    for file in weight_files(preset, roles):
        file.download()  # fails where a config names no weights


def check_feature_teacher(preset: Preset, roles: Sequence[str]) -> None:
    """Check the role and the folder of a teacher that gives only features; there is nothing to check of another.

    Raises:
        RmrkdError: When it would be trained, or the folder of its weights is not named, missing or incomplete.
    """
    teacher = preset.teacher
    if not teacher.gives_only_features:
        return
    if "teacher" in roles:
        raise RmrkdError(
            f"the role `teacher` trains a segmentation network, and the teacher `{teacher.name}` gives feature maps "
            "and no logits",
            "--role distill distils from it",
        )
    if "distill" not in roles or teacher.outputs is not None:
        return
    network_config(teacher, num_classes=1)
    if teacher.checkpoint is None:
        raise RmrkdError(
            f"the teacher `{teacher.name}` needs `weights`, the folder of a published model",
            "hf download facebook/dinov2-base --local-dir dinov2-base, then --teacher-checkpoint dinov2-base",
        )


def check_teacher(preset: Preset) -> None:
    """Check the teacher's checkpoint of one more seed, after `check_inputs` for the first.

    Raises:
        RmrkdError: When it is missing or does not match its network.
    """
    source, info = preset.teacher.checkpoint, dataset_info(preset)
    if preset.teacher.is_file:
        build_outline(network_config(preset.teacher, info.num_classes, info), "teacher")
        return
    check_file(source, "teacher")
    if source is not None:
        outline = build_outline(network_config(preset.teacher, info.num_classes), "teacher")
        check_weights(outline, source, role="teacher")


def check_class_order(source: CheckpointSource, info: DatasetInfo) -> None:
    """Raise RmrkdError if a teacher's checkpoint names the classes of the data set in another order."""
    names = read_checkpoint(fetch_weights(source, "teacher"), lazy=True).meta.get("CLASSES")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return
    theirs, ours = ([name.lower() for name in each] for each in (names, info.classes))
    if sorted(theirs) == sorted(ours) and theirs != ours:
        place = next(index for index, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
        raise RmrkdError(
            f"the teacher's classes have another order: class {place} is `{theirs[place]}` in its checkpoint, and "
            f"`{ours[place]}` in the data set",
            "use the teacher's order in `data.classes` and in the masks, or another teacher",
        )


def check_batch_size(schedule: Schedule, *, device: str, workers: int) -> None:
    """Raise RmrkdError for a batch size of 1, unless SyncBN joins the images of several GPUs."""
    if schedule.batch_size == 1 and (workers == 1 or device == "cpu"):
        raise RmrkdError(
            "batch size 1: batch norm after global pooling (PSPNet, DeepLabV3) needs at least two images",
            "--batch-size 2; if memory is short, use a smaller crop: --set schedule.crop=[256,256]",
        )


def check_file(source: CheckpointSource | None, what: str) -> None:
    """Check that a checkpoint exists and can be read.

    Args:
        what: "teacher" or "student".

    Raises:
        RmrkdError: When it does not or cannot.
    """
    if source is None or source.path is None:
        return
    if not Path(source.path).is_file():
        train_it = "train it with --role teacher, or give another file with " if what == "teacher" else ""
        raise RmrkdError(
            f"the {what}'s checkpoint `{source.path}` does not exist", f"{train_it}--{what}-checkpoint FILE"
        )
    read_checkpoint(source.path, lazy=True)  # report a damaged file before anything slow


def _check_contents(file: WeightFile, outlines: Outlines, info: DatasetInfo) -> None:
    """Compare a checkpoint with its network, and a teacher's classes with those of the data set."""
    if file.source is None:
        return
    check_weights(outlines.networks[file.what], file.source, role=file.what, may_be_backbone=file.is_start)
    if file.what == "teacher":
        check_class_order(file.source, info)
