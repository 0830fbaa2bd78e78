"""Twenty steps of each preset at its own crop and batch size: do the losses fall, how fast, in how much memory."""

from __future__ import annotations

import gc
import math
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

from benchmarks.gpu_parts.common import (
    FP16,
    FP32,
    Options,
    Precision,
    Record,
    build_model,
    copy_to,
    load,
    make_batch,
    precisions,
)
from benchmarks.pairs import synchronize
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RunError
from rmrkd_cli.presets.loader import preset_names
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.signals import StopRequest
from rmrkd_cli.training.budget import make_budget
from rmrkd_cli.training.determinism import seed_step
from rmrkd_cli.training.gradient_update import GradientUpdate
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress

_WITH_FP16 = ("demo", "psp101-psp18-city")
_UNTIMED = 5  # first steps, in which kernels are chosen


def run(options: Options, record: Record) -> None:
    """Record a row for each preset and precision."""
    names = ["demo"] if options.toy else preset_names()
    for name in names:
        built = build_model(load(name, FP32), options.device)
        half = [FP16] if options.device == "cuda" and name in _WITH_FP16 else []
        for precision in (*precisions(options), *half):
            row = {"preset": name, "precision": precision.name}
            try:
                record(row | _train(load(name, precision), built, precision, options))
            except torch.OutOfMemoryError:
                record(row | {"error": "out of memory"})
            except RunError as error:  # a loss is infinite or NaN
                record(row | {"error": error.message})


def _train(preset: Preset, built: Distiller, precision: Precision, options: Options) -> dict[str, Any]:
    precision.apply()
    reset_peak(options.device)
    model = copy_to(options.device, built)
    batch = make_batch(preset, (64, 64) if options.toy else None, 2 if options.toy else None)
    batch = Batch(batch.images.to(options.device), batch.labels.to(options.device), batch.indices)
    count = _UNTIMED + 1 if options.toy else 20
    steps = Steps(preset, model, batch, options.device)
    values, seconds = _timed(steps, count)
    totals = [sum(model.weights[name] * value for name, value in each.items()) for each in values]
    return {
        "batch": list(batch.images.shape),
        "steps": count,
        "first ce": values[0]["ce"],
        "last ce": values[-1]["ce"],
        "first total": totals[0],
        "last total": totals[-1],
        "finite": all(math.isfinite(total) for total in totals),
        "steps/s": (count - _UNTIMED) / seconds,
        "peak bytes": peak_bytes(options.device),
        "waits": _count_waits(steps, count),
    }


class Steps:
    """Training steps as `rmrkd train` takes them, with its search for numbers that are not finite, on one batch."""

    def __init__(self, preset: Preset, model: Distiller, batch: Batch, device: str) -> None:
        schedule, progress = preset.schedule_for("distill"), Progress()
        self.batch, self.device, self.seed = batch, device, preset.seed
        self.step = TrainStep(model, model, schedule, torch.device(device))
        setup: Any = SimpleNamespace(train_samples=[], schedule=schedule, run_dir=SimpleNamespace(path=Path("none")))
        dist_ctx = DistContext(0, 1, self.step.device)
        self.update = GradientUpdate(setup, self.step, dist_ctx, make_budget(schedule, progress), progress, MagicMock())

    def __call__(self, number: int) -> dict[str, Tensor]:
        """Take a step and return its losses."""
        seed_step(self.seed, number, 0, self.device)
        losses = self.step.backward([self.batch], number)
        self.update.step(losses, [], StopRequest())
        return losses


def _timed(steps: Steps, count: int) -> tuple[list[dict[str, float]], float]:
    """Return the losses of each step, and the seconds of those after the untimed ones."""
    losses, started = [], 0.0
    for number in range(count):
        if number == _UNTIMED:
            synchronize(steps.device)
            started = time.perf_counter()
        losses.append(steps(number))
    synchronize(steps.device)
    seconds = time.perf_counter() - started
    return [{name: float(value) for name, value in each.items()} for each in losses], seconds


def _count_waits(steps: Steps, number: int) -> int | None:
    """Return how often a step waits for the GPU, as torch reports it; None on a CPU."""
    if steps.device != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            steps(number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(each.message) for each in caught)


def reset_peak(device: str) -> None:
    """Free cached memory of a GPU, and start a new peak."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int | None:
    """Return the largest number of bytes allocated on a GPU since `reset_peak`; None on a CPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None
