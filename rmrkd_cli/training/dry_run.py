"""`rmrkd train --dry-run`: build the networks, take two steps on random data, and print sizes, time and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import torch
from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.unlabelled import count_labelled, find_training_samples
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller, trained_network
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RmrkdError, RunError, summarize_error
from rmrkd_cli.evaluation.flops import count_parameters_and_macs
from rmrkd_cli.evaluation.machine import peak_memory, reset_peak_memory
from rmrkd_cli.evaluation.precision import float32_precision
from rmrkd_cli.networks.hub import NotDownloadedError
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.networks.libraries import MMSEG, NO_WEIGHTS, start_source
from rmrkd_cli.presets.methods import weight_origin
from rmrkd_cli.presets.schema import Preset, Schedule
from rmrkd_cli.results.training_images import describe_images, training_images
from rmrkd_cli.training.loss_weights import auto_weighted_losses, compute_auto_weights, describe_rule, first_batches
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.plan import Run, roles_to_train
from rmrkd_cli.training.preflight import find_problems
from rmrkd_cli.training.weight_files import WeightFile, describe_downloads, weight_files

STEPS = 2


def report_dry_run(
    plan: Sequence[Run],
    device: str,
    code: Sequence[str] = (),
    *,
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
    settings: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Check what training checks first, then build each run's networks and take two steps on random images.

    Nothing is downloaded. Loss weights set to `auto` are computed from the real images and networks if these are on
    this machine. Otherwise they are computed from random ones.

    Args:
        plan: The runs of one seed.
        device: "cpu" or "cuda".
        code: Python files named on the command line, which custom losses may be loaded from.
        resume, fresh, force: As for `train`; missing inputs and existing runs are only reported.
        settings: The texts of `--set`, for the origin of loss weights.
        progress: Receives what is done next.

    Yields:
        Lines of the report.

    Raises:
        RmrkdError: When a network, loss or checkpoint cannot be used.
        RunError: When a loss is infinite or NaN.
    """
    preset = plan[0].preset
    info = dataset_info(preset)
    progress("checking networks, losses and weights of all roles")
    problems = list(find_problems(plan, info, device, code, resume=resume, fresh=fresh, force=force))
    yield f"{preset.name}: {info.name}, {info.num_classes} classes, random weights and images, on {device}"
    yield from problems
    for run in plan:
        with float32_precision(run.preset.schedule_for(run.role).tf32):
            yield from _report_role(run.preset, run.role, info, device, code, settings, progress)


def report_missing_network(preset: Preset, missing: NotDownloadedError) -> Iterator[str]:
    """Yield the lines of a report that ends where a network's description is not on this machine."""
    yield f"{preset.name}: nothing is downloaded by --dry-run"
    roles = roles_to_train(preset)
    files = list(weight_files(preset, roles))
    if "distill" in roles and preset.teacher.checkpoint is None:  # `resolve_weights` could not run
        source = start_source(preset.teacher, "teacher")
        files += [WeightFile("teacher", preset.teacher, source)] if source is not None else []
    yield from (f"  {line}" for line in describe_downloads(files))
    yield f"  {missing.message}"
    yield (
        "  the network is described there: without it nothing else can be checked; "
        "`hf download OWNER/MODEL config.json` fetches it alone"
    )


def measure_step(preset: Preset, info: DatasetInfo, device: str, code: Sequence[str] = ()) -> float:
    """Return the seconds of a step of the preset's distillation, on random images and weights.

    Raises:
        RmrkdError: As `report_dry_run`.
    """
    built = build_distiller(
        preset, "distill", info.num_classes, device=device, log=lambda _: None, with_weights=False, code=code, info=info
    )
    model = built.distiller
    model.weights |= dict.fromkeys(auto_weighted_losses(preset), 1.0)
    model.to_device(device, inference_network).train()
    step, seconds = TrainStep(model, model, preset.schedule, torch.device(device)), 0.0
    for number, batch in enumerate(
        _random_batches(preset, "distill", preset.schedule, info.num_classes, model.stored_classes)
    ):
        started = time.perf_counter()
        losses = step([batch] * preset.schedule.accumulate, number)
        [float(value) for value in losses.values()]  # waits for the GPU
        seconds = time.perf_counter() - started
    return seconds


def _report_role(
    preset: Preset,
    role: str,
    info: DatasetInfo,
    device: str,
    code: Sequence[str],
    settings: Sequence[str],
    progress: Callable[[str], None],
) -> Iterator[str]:
    schedule, classes, scale = preset.schedule_for(role), info.num_classes, info.eval_scale
    reset_peak_memory(device)
    yield f"{role}:"
    progress(f"{role}: building and measuring the networks")
    built = build_distiller(
        preset, role, classes, device=device, log=lambda _: None, with_weights=False, code=code, info=info
    )
    model = built.distiller
    yield f"  trained network   {_describe_size(model.student, scale)} at {scale[0]}x{scale[1]}"
    yield f"  starts from       {_describe_start(preset, role)}"
    if preset.teacher.outputs is not None and role == "distill":
        yield f"  teacher           stored outputs in {preset.teacher.outputs}"
    if model.teacher is not None:
        yield f"  teacher           {_describe_size(model.teacher, scale)}"
    if images := _describe_training_images(preset, role, info):
        yield f"  training images   {images}"
    model.to_device(device, inference_network).train()
    batches = list(_random_batches(preset, role, schedule, classes, model.stored_classes))
    if role == "distill":
        if auto_weighted_losses(preset):
            progress("distill: computing the loss weights")
        yield from _report_losses(model, preset, info, device, batches, code, settings)
    step = TrainStep(model, model, schedule, torch.device(device))
    yield f"  optimizer         {step.describe_optimizer()}"
    images_shape = f"{schedule.batch_size} x {schedule.crop[0]}x{schedule.crop[1]}"
    for number, batch in enumerate(batches):
        progress(f"{role}: step {number + 1} of {STEPS}, {images_shape}")
        started = time.perf_counter()
        losses = {name: float(value) for name, value in step([batch] * schedule.accumulate, number).items()}
        seconds = time.perf_counter() - started
        nonfinite = [name for name, value in losses.items() if not math.isfinite(value)]
        if nonfinite:
            raise RunError(f"loss `{nonfinite[0]}` is {losses[nonfinite[0]]} on random images")
    yield "  losses            " + "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
    memory = f"peak memory {peak_memory(device) / 2**30:.2f} GiB"
    yield f"  step {STEPS}            {seconds:8.2f} s for {images_shape}, {memory}"


def _report_losses(
    model: Distiller,
    preset: Preset,
    info: DatasetInfo,
    device: str,
    batches: list[Batch],
    code: Sequence[str],
    settings: Sequence[str],
) -> Iterator[str]:
    """Yield a line for each loss; set the model's weights that are `auto`."""
    names, note, missing = auto_weighted_losses(preset), "", ""
    if names:
        missing = _missing_for_auto_weights(preset)
        if missing:
            model.weights |= _auto_weights(model, batches, names, preset, device)
            note = f"  rule: {describe_rule(preset)}; training computes other weights, because {missing} is missing now"
        else:
            model.weights |= _auto_weights_of_training(preset, info, names, device, code)
            note = f"  rule: {describe_rule(preset)}; training computes the same weights"
    for name, loss in model.losses.items():
        count = sum(parameter.numel() for parameter in loss.parameters())
        spec = preset.losses[name]
        stages = ", ".join(map(str, spec.stage)) if isinstance(spec.stage, list) else str(spec.stage)
        where = f"stage {stages}" if stages.isdigit() else stages
        random = "from random images and networks, " if missing and name in names else ""
        origin = f"weight {model.weights[name]:g} ({random}{weight_origin(preset, name, settings)})"
        yield f"  loss {name:12} {count / 1e6:8.2f} M parameters, {where}, {origin}"
    if note:
        yield note


def _auto_weights_of_training(
    preset: Preset, info: DatasetInfo, names: list[str], device: str, code: Sequence[str]
) -> dict[str, float]:
    """Return the weights that training will compute, from the real networks and images."""
    built = build_distiller(
        preset, "distill", info.num_classes, device=device, log=lambda _: None, code=code, info=info
    )
    model, dist_ctx = built.distiller.to_device(device, inference_network), DistContext(0, 1, torch.device(device))
    samples = find_training_samples(info, "distill")
    outputs = built.stored_outputs(samples, preset.schedule.crop)
    batches = first_batches(preset, preset.schedule, info, samples, dist_ctx, None, outputs)
    return _auto_weights(model, batches, names, preset, device)


def _auto_weights(
    model: Distiller, batches: Iterable[Batch], names: list[str], preset: Preset, device: str
) -> dict[str, float]:
    dist_ctx = DistContext(0, 1, torch.device(device))
    return compute_auto_weights(model, batches, names, preset.schedule, preset.seed, dist_ctx)


def _missing_for_auto_weights(preset: Preset) -> str:
    """Return what is not on this machine of the teacher, the student's weights and the images; "" if nothing."""
    if not preset.teacher.is_trained and preset.teacher.outputs is None:
        return "a trained teacher"
    missing = [file.what for file in weight_files(preset, ["distill"]) if not file.is_present()]
    if missing:
        return f"the file of the {missing[-1]}'s weights"
    try:
        find_training_samples(dataset_info(preset), "distill")
    except RmrkdError as error:
        return f"the training set ({summarize_error(error)})"
    return ""


def _describe_training_images(preset: Preset, role: str, info: DatasetInfo) -> str:
    """Return on how many images a role trains, if some of them have no label maps and all are on this machine."""
    data = preset.data
    if data.train_labels == "files" and (data.unlabelled is None or role != "distill"):
        return ""
    with suppress(RmrkdError):
        counts = count_labelled(find_training_samples(info, role))
        return describe_images(
            training_images(*counts, from_teacher=data.teacher_labels, threshold=data.label_threshold)
        )
    return ""


def _random_batches(
    preset: Preset, role: str, schedule: Schedule, classes: int, stored_classes: int | None = None
) -> Iterator[Batch]:
    """Yield random images and labels. Of a distillation with unlabelled images, half of them have no labels, or all."""
    size, crop, unlabelled = schedule.batch_size, schedule.crop, 0
    if role == "distill" and preset.data.train_labels != "files":
        unlabelled = size
    elif role == "distill" and preset.data.unlabelled is not None:
        unlabelled = size // 2
    generator = torch.Generator().manual_seed(preset.seed)
    shape = (schedule.batch_size, 3, *schedule.crop)
    for _ in range(STEPS):
        images = torch.randn(shape, generator=generator)
        labels = torch.randint(0, classes, (shape[0], 1, *schedule.crop), generator=generator)
        labels[size - unlabelled :] = 255
        covered = torch.tensor([crop] * unlabelled) if unlabelled else None
        logits = None
        if stored_classes is not None:
            logits = torch.randn(size, stored_classes, crop[0] // 8 + 1, crop[1] // 8 + 1, generator=generator).half()
        yield Batch(images, labels, [], unlabelled=covered, teacher_logits=logits)


def _describe_start(preset: Preset, role: str) -> str:
    """Return what the network that a role trains starts from; the data set in a config's name plays no part."""
    network = trained_network(preset, role)
    if network.checkpoint is not None and role != "teacher":
        return str(network.checkpoint.path or network.checkpoint.url or network.checkpoint.hub)
    if network.library != MMSEG:
        named = network.weights or NO_WEIGHTS
        return "random weights" if named == NO_WEIGHTS else f"weights {named}"
    return "random weights" if network.init == "scratch" else "ImageNet weights (backbone) and random weights (heads)"


def _describe_size(network: nn.Module, scale: tuple[int, int]) -> str:
    size = count_parameters_and_macs(network, scale)
    macs = f", {size['macs'] / 1e9:.1f} G MACs" if "macs" in size else ""  # of some files they are unknown
    parameters = f"{size['parameters'] / 1e6:8.2f} M" if "parameters" in size else "       –"
    return f"{parameters} parameters{macs}"
