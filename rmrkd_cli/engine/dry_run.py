"""A rehearsal: build everything, take two steps on random data, say what it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import nn

from rmrkd_cli.data.catalog import dataset_info
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.engine.build import build_distiller
from rmrkd_cli.engine.evaluate import cost
from rmrkd_cli.engine.inference import inference_network
from rmrkd_cli.engine.machine import peak_memory, reset_peak_memory
from rmrkd_cli.engine.preflight import check_batch
from rmrkd_cli.engine.step import TrainStep
from rmrkd_cli.errors import RunError
from rmrkd_cli.schema import Preset

STEPS = 2


def dry_run(preset: Preset, roles: list[str], kind: str) -> Iterator[str]:
    """Lines that say what was built and what a step cost; no image is read and no weight fetched.

    Args:
        kind: "cpu" or "cuda".
    """
    info = dataset_info(preset)
    yield f"{preset.name}: {info.name}, {info.num_classes} classes, random weights and images, on {kind}"
    for role in roles:
        yield from _rehearse(preset, role, info.num_classes, info.eval_scale, kind)


def _rehearse(preset: Preset, role: str, classes: int, scale: tuple[int, int], kind: str) -> Iterator[str]:
    schedule = preset.schedule_for(role)
    check_batch(schedule, device=kind, workers=1)
    reset_peak_memory(kind)
    built = build_distiller(preset, role, classes, device=kind, say=lambda _: None, with_weights=False)
    model = built.distiller
    yield f"{role}:"
    yield f"  trained network   {_size(model.student, scale)} at {scale[0]}x{scale[1]}"
    if model.teacher is not None:
        yield f"  teacher           {_size(model.teacher, scale)}"
    model.place(kind, inference_network).train()
    for name, loss in model.losses.items():
        count = sum(parameter.numel() for parameter in loss.parameters())
        where = f"stage {model.stages[name]}, weight {model.weights[name]:g}"
        yield f"  loss {name:12} {count / 1e6:8.2f} M parameters, {where}"
    step = TrainStep(model, model, schedule, torch.device(kind))
    generator = torch.Generator().manual_seed(preset.seed)
    shape = (schedule.batch_size, 3, *schedule.crop)
    for number in range(STEPS):
        images = torch.randn(shape, generator=generator)
        labels = torch.randint(0, classes, (shape[0], 1, *schedule.crop), generator=generator)
        began = time.perf_counter()
        named = step([Batch(images, labels, [])] * schedule.accumulate, number)
        values = {name: float(value) for name, value in named.items()}
        seconds = time.perf_counter() - began
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise RunError(f"loss `{wrong[0]}` is not finite on random images")
    yield "  losses            " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    images_shape = f"{schedule.batch_size} x {schedule.crop[0]}x{schedule.crop[1]}"
    memory = f"peak memory {peak_memory(kind) / 2**30:.2f} GiB"
    yield f"  step {STEPS}            {seconds:8.2f} s for {images_shape}, {memory}"


def _size(network: nn.Module, scale: tuple[int, int]) -> str:
    size = cost(network, scale)
    return f"{size['parameters'] / 1e6:8.2f} M parameters, {size['macs'] / 1e9:.1f} G MACs"
