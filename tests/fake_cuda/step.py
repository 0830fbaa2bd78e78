"""Whole training steps of a preset on fake CUDA tensors: forward, backward, checks and update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
import torch.distributed as dist

from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.signals import StopRequest
from rmrkd_cli.training.budget import make_budget
from rmrkd_cli.training.determinism import make_deterministic, seed_step
from rmrkd_cli.training.gradient_update import GradientUpdate
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress
from tests.fake_cuda.events import FakeEvent
from tests.fake_cuda.watch import Watch

CUDA = torch.device("cuda", 0)
_WARM_UP = 1  # steps before the watched one, so that momentum and the checks of a previous step exist


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        what: `step`, or another of `jobs.PATHS`.
        method: A method, or several joined by `+`, whose losses all act in the same step.
        ranks: Processes of a fake group, of which this is rank 0: SyncBN synchronizes, DDP is left out.
        plant: Add a tensor on the CPU to a loss, as a control: it must be found.
    """

    preset: str = "demo"
    method: str | None = None
    role: str = "distill"
    amp: str = "off"
    ranks: int = 1
    deterministic: bool = False
    plant: bool = False
    overrides: tuple[str, ...] = ()
    what: str = "step"

    @property
    def name(self) -> str:
        flags = f"{' deterministic' * self.deterministic}{' planted' * self.plant}"
        what = "" if self.what == "step" else f"{self.what} "
        changes = "".join(f" {override}" for override in self.overrides)
        return f"{what}{self.preset} {self.method or self.role} amp={self.amp} ranks={self.ranks}{flags}{changes}"


class FakeRanks(DistContext):
    """This process as rank 0 of several that agree on everything."""

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        return tuple(int(value) for value in values)

    def all_gather(self, value: Any) -> list[Any]:
        return [value] * self.size

    def barrier(self) -> None:
        """Wait for nobody."""


def take_steps(preset: Preset, job: Job, model: Distiller, watch: Watch) -> None:
    """Take a step, and watch the next one."""
    step, update = prepare(preset, job, model)
    for number in range(_WARM_UP + 1):
        if number == _WARM_UP:
            watch.start()
        take_step(step, update, make_batch(preset, job), preset.seed, number)


def take_step(step: TrainStep, update: GradientUpdate, batch: Batch, seed: int, number: int) -> None:
    FakeEvent.step = number
    seed_step(seed, number, 0, "cuda")
    losses = step.backward([batch], number)
    update.step(losses, [batch], StopRequest())


def load(job: Job) -> Preset:
    """Return the preset of a job; losses of several methods are named after their method."""
    overrides = [f"schedule.amp={job.amp}", *job.overrides]
    methods = job.method.split("+") if job.method else [None]
    presets = [load_preset(job.preset, method=method, overrides=overrides) for method in methods]
    if len(methods) == 1:
        return presets[0]
    losses = {f"{m}-{name}": spec for m, p in zip(methods, presets, strict=True) for name, spec in p.losses.items()}
    return presets[0].model_copy(update={"losses": losses})


def build(preset: Preset, job: Job) -> Distiller:
    classes = dataset_info(preset).num_classes
    built = build_distiller(preset, job.role, classes, device="cuda", log=lambda _: None, with_weights=False)
    if job.deterministic:
        make_deterministic("cuda")
    model = built.distiller.to_device(CUDA, inference_network)
    for loss in preset.losses:
        model.weights.setdefault(loss, 1.0)
    if job.plant:
        _plant(next(iter(model.losses.values())))
    model.train()
    return model


def _plant(loss: Any) -> None:
    original = loss.forward
    loss.forward = lambda *given: original(*given) + (given[0].new_ones(3) * torch.ones(3)).sum()


def prepare(preset: Preset, job: Job, model: Distiller) -> tuple[TrainStep, GradientUpdate]:
    """Return the two halves of a step, as the training loop sets them up."""
    schedule = preset.schedule_for(job.role)
    dist_ctx = (FakeRanks if job.ranks > 1 else DistContext)(0, job.ranks, CUDA)
    step, progress = TrainStep(model, model, schedule, CUDA), Progress()
    setup: Any = SimpleNamespace(
        train_samples=[], schedule=schedule, preset=preset, model=model, run_dir=SimpleNamespace(path=Path("none"))
    )
    return step, GradientUpdate(setup, step, dist_ctx, make_budget(schedule, progress), progress, MagicMock())


def make_batch(preset: Preset, job: Job) -> Batch:
    schedule = preset.schedule_for(job.role)
    images = torch.zeros(schedule.batch_size, 3, *schedule.crop)
    labels = torch.zeros(schedule.batch_size, 1, *schedule.crop, dtype=torch.uint8)
    return Batch(images, labels, [])


@contextmanager
def settings_of(job: Job) -> Iterator[None]:
    """Restore torch's settings at the end."""
    torch.backends.cudnn.enabled = job.amp == "off"  # its batch norm in half precision asks the driver for sizes
    benchmark, filled = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.enabled = benchmark, True
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


@contextmanager
def process_group(ranks: int) -> Iterator[None]:
    """Join a group of torch's fake backend, which passes no messages."""
    if ranks == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
