"""A rehearsal: build everything, take two steps on random data, say what it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RunError
from rmrkd_cli.evaluation.flops import count_parameters_and_macs
from rmrkd_cli.evaluation.machine import peak_memory, reset_peak_memory
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.methods import weight_origin
from rmrkd_cli.presets.schema import Preset, Schedule
from rmrkd_cli.training.loss_weights import RULE, balanced_weights, first_batches, missing_here, open_weights
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.plan import Run
from rmrkd_cli.training.preflight import check_batch

STEPS = 2


def dry_run(plan: Sequence[Run], kind: str, code: Sequence[str] = ()) -> Iterator[str]:
    """Lines that say what was built and what a step cost; nothing is fetched, and the steps see random images.

    Only weights that are left to the rule are computed from real images and networks, where these are here.

    Args:
        plan: The runs of one seed.
        kind: "cpu" or "cuda".
        code: Files that the command line names, whose losses may run.
    """
    preset = plan[0].preset
    info = dataset_info(preset)
    yield f"{preset.name}: {info.name}, {info.num_classes} classes, random weights and images, on {kind}"
    for run in plan:
        yield from _rehearse(run.preset, run.role, info, kind, code)


def _rehearse(preset: Preset, role: str, info: DatasetInfo, kind: str, code: Sequence[str]) -> Iterator[str]:
    schedule, classes, scale = preset.schedule_for(role), info.num_classes, info.eval_scale
    check_batch(schedule, device=kind, workers=1)
    reset_peak_memory(kind)
    built = build_distiller(preset, role, classes, device=kind, say=lambda _: None, with_weights=False, code=code)
    model = built.distiller
    yield f"{role}:"
    yield f"  trained network   {_size(model.student, scale)} at {scale[0]}x{scale[1]}"
    if model.teacher is not None:
        yield f"  teacher           {_size(model.teacher, scale)}"
    model.place(kind, inference_network).train()
    batches = list(_random_batches(preset, schedule, classes))
    if role == "distill":
        yield from _losses(model, preset, info, kind, batches, code)
    step = TrainStep(model, model, schedule, torch.device(kind))
    for number, batch in enumerate(batches):
        began = time.perf_counter()
        named = step([batch] * schedule.accumulate, number)
        values = {name: float(value) for name, value in named.items()}
        seconds = time.perf_counter() - began
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise RunError(f"loss `{wrong[0]}` is not finite on random images")
    yield "  losses            " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    images_shape = f"{schedule.batch_size} x {schedule.crop[0]}x{schedule.crop[1]}"
    memory = f"peak memory {peak_memory(kind) / 2**30:.2f} GiB"
    yield f"  step {STEPS}            {seconds:8.2f} s for {images_shape}, {memory}"


def _losses(
    model: Distiller, preset: Preset, info: DatasetInfo, kind: str, batches: list[Batch], code: Sequence[str]
) -> Iterator[str]:
    """A line a loss; gives the model the weights that are left to the rule."""
    names, note, missing = open_weights(preset), "", ""
    if names:
        missing = missing_here(preset)
        model.weights |= (
            _computed(model, batches, names, preset, kind) if missing else _trained(preset, info, names, kind, code)
        )
        told = f"training computes its own, which may be many times another: {missing} would be needed here"
        note = f"  rule: {RULE}; " + (told if missing else "as training computes it")
    for name, loss in model.losses.items():
        count = sum(parameter.numel() for parameter in loss.parameters())
        spec = preset.losses[name]
        where = ", ".join(map(str, spec.stage)) if isinstance(spec.stage, list) else str(spec.stage)
        where = f"stage {where}" if where.isdigit() else where
        guess = "on random images and networks, " if missing and name in names else ""
        origin = f"weight {model.weights[name]:g} ({guess}{weight_origin(preset, name)})"
        yield f"  loss {name:12} {count / 1e6:8.2f} M parameters, {where}, {origin}"
    if note:
        yield note


def _trained(preset: Preset, info: DatasetInfo, names: list[str], kind: str, code: Sequence[str]) -> dict[str, float]:
    """The weights that training will compute."""
    built = build_distiller(preset, "distill", info.num_classes, device=kind, say=lambda _: None, code=code)
    model, dist_ctx = built.distiller.place(kind, inference_network), DistContext(0, 1, torch.device(kind))
    samples = find_samples(info, "train")
    return _computed(model, first_batches(preset, preset.schedule, info, samples, dist_ctx, None), names, preset, kind)


def _computed(
    model: Distiller, batches: Iterable[Batch], names: list[str], preset: Preset, kind: str
) -> dict[str, float]:
    dist_ctx = DistContext(0, 1, torch.device(kind))
    return balanced_weights(model, batches, names, preset.schedule, preset.seed, dist_ctx)


def _random_batches(preset: Preset, schedule: Schedule, classes: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(preset.seed)
    shape = (schedule.batch_size, 3, *schedule.crop)
    for _ in range(STEPS):
        images = torch.randn(shape, generator=generator)
        labels = torch.randint(0, classes, (shape[0], 1, *schedule.crop), generator=generator)
        yield Batch(images, labels, [])


def _size(network: nn.Module, scale: tuple[int, int]) -> str:
    size = count_parameters_and_macs(network, scale)
    return f"{size['parameters'] / 1e6:8.2f} M parameters, {size['macs'] / 1e9:.1f} G MACs"
