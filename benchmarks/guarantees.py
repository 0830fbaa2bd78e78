"""What it costs that a run can be interrupted at any moment: everything a step does for that and for nothing else."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.networks import random_batch
from benchmarks.pairs import synchronize
from benchmarks.result import Benchmark, Disagreement, Result, Row, Setting
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.transforms import seed_transforms
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.determinism import seed_step
from rmrkd_cli.training.nonfinite import find_nonfinite
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.resume import Checkpointer
from rmrkd_cli.training.run_directory import RunDir

MAX_RATIO = 1.02
_CLASSES = 8  # of the demo


class GuardedSteps:
    """Training steps of a role of `demo`; the work for determinism and crash safety is timed separately."""

    def __init__(self, role: str, folder: Path, setting: Setting) -> None:
        preset = load_preset("demo")
        self.schedule = preset.schedule_for(role)
        self.setting = setting
        device = torch.device(setting.device)
        self.dist_ctx = DistContext(0, 1, device)
        built = build_distiller(preset, role, _CLASSES, device=device.type, log=lambda _: None, with_weights=False)
        self.model = built.distiller.to_device(device, inference_network)
        self.step = TrainStep(self.model, self.model, self.schedule, device)
        self.state = Checkpointer(
            RunDir(folder), self.model, self.step, self.schedule, self.dist_ctx, built.sources, {}, image_names=""
        )
        self.batch = random_batch(preset)
        self.batch.labels.remainder_(_CLASSES)
        self.progress = Progress()

    def steps(self, count: int, plain_file: Path) -> tuple[float, float]:
        """Return the seconds of `count` steps and a checkpoint, without and with the guarantees.

        Both are measured on the same steps, so that other load on the machine affects both.
        """
        plain_time = guard_time = 0.0
        for _ in range(count):
            guard_time += self._timed(self._before)
            started = time.perf_counter()
            losses = self.step.backward([self.batch], self.progress.iteration % self.schedule.iters)
            synchronize(self.setting.device)
            plain_time += time.perf_counter() - started
            guard_time += self._timed(partial(self._check_finite, losses))
            plain_time += self._timed(self.step.update_weights)
            self.progress.iteration += 1
        safe, plain = self._timed(self._save), self._timed(partial(self._save_plainly, plain_file))
        return plain_time + plain, plain_time + guard_time + safe

    def _before(self) -> None:
        seed_step(0, self.progress.iteration, 0, self.setting.device)

    def _check_finite(self, losses: dict[str, torch.Tensor]) -> None:
        nonfinite = find_nonfinite(losses, self.step.clip_gradients())
        self.dist_ctx.all_reduce_max(bool(nonfinite), 0)

    def _save(self) -> None:
        self.state.save(self.progress, {}, is_best=True)

    def _save_plainly(self, file: Path) -> None:
        torch.save({"meta": {}, "state_dict": self.model.state_dict(), **self.step.state()}, file)

    def _timed(self, call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        synchronize(self.setting.device)
        return time.perf_counter() - started


def benchmark_guarantees(setting: Setting) -> Result:
    count = 2 if setting.quick else 100
    rows = []
    checked = ""
    for role in ("distill", "baseline"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            guarded = GuardedSteps(role, folder, setting)
            checked = check(guarded)
            setting.log(f"  {role}: {checked}")
            guarded.steps(min(count, 3), folder / "plain.pth")
            plain, ours = [], []
            for number in range(1, setting.pairs + 1):
                without, with_them = guarded.steps(count, folder / "plain.pth")
                plain.append(without / count)
                ours.append(with_them / count)
                setting.log(f"  {role} {number}/{setting.pairs}: {with_them / without:.4f}")
            rows.append(Row(f"a step of `demo`, {role}", "s", plain, ours, bound=True, goal=MAX_RATIO))
    sample = f"{1e6 * seeding_seconds():.0f} µs"
    what = (
        f"{count} steps of `demo` and one checkpoint, as often as the preset writes one, on random images: seeding by "
        f"position (of the step; a sample's takes {sample} in a loader process), the search for numbers that are not "
        "finite, the agreement on signals, and a checkpoint that is hashed, synced to the disk "
        "and read again, against the same steps with none of that and `torch.save`"
    )
    return Result("guarantees", what, checked, rows)


def seeding_seconds(count: int = 1000) -> float:
    """Return the seconds that seeding adds to a sample in a loader process."""
    started = time.perf_counter()
    for position in range(count):
        seed_transforms(0, position)
    return (time.perf_counter() - started) / count


def check(guarded: GuardedSteps) -> str:
    """Check that a step with the guarantees gives exactly the same weights as a step without.

    Raises:
        Disagreement: The weights differ.
    """
    bare = copy.deepcopy(guarded.model)
    step = TrainStep(bare, bare, guarded.schedule, guarded.dist_ctx.device)
    for taken, safe in ((step, False), (guarded.step, True)):
        _one(taken, guarded.batch, guarded.dist_ctx if safe else None)
    theirs, ours = bare.state_dict(), guarded.model.state_dict()
    if not all(torch.equal(theirs[key], ours[key]) for key in theirs):
        raise Disagreement("a step with the guarantees gives other weights")
    return f"all {len(theirs)} tensors are equal after a step, bit by bit"


def _one(step: TrainStep, batch: Batch, dist_ctx: DistContext | None) -> None:
    seed_step(0, 0, 0, step.device.type)
    losses = step.backward([batch], 0)
    if dist_ctx is not None:
        dist_ctx.all_reduce_max(bool(find_nonfinite(losses, step.clip_gradients())), 0)
    step.update_weights()


BENCHMARKS: dict[str, Benchmark] = {"guarantees": benchmark_guarantees}
