"""The training loop, from the first step to the exported student."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli import __version__
from rmrkd_cli.checkpoint import RUN_KIND, STUDENT_KIND, load_into, read_checkpoint, save_torch, write_text
from rmrkd_cli.console import Screen, screen
from rmrkd_cli.data.catalog import dataset_info
from rmrkd_cli.data.decoded import DecodedImages
from rmrkd_cli.data.files import SampleFiles
from rmrkd_cli.data.loader import Batch, training_batches
from rmrkd_cli.data.order import StepSampler
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.transforms import EvalSet, TrainSet
from rmrkd_cli.engine.build import build_distiller
from rmrkd_cli.engine.distributed import World, world
from rmrkd_cli.engine.evaluate import cost, evaluate, protocol
from rmrkd_cli.engine.export import mmseg_config_text
from rmrkd_cli.engine.inference import inference_network
from rmrkd_cli.engine.job import TrainJob
from rmrkd_cli.engine.journal import Journal
from rmrkd_cli.engine.machine import device_name, peak_memory, reset_peak_memory
from rmrkd_cli.engine.run_dir import RunDir
from rmrkd_cli.engine.signals import StopRequest, stop_requests
from rmrkd_cli.engine.step import TrainStep
from rmrkd_cli.errors import Interrupted, RmrkdError, RunError
from rmrkd_cli.metrics import ConfusionMatrix
from rmrkd_cli.report import make_record, to_json


def run_training(job: TrainJob) -> None:
    """Trains one role; leaves checkpoints, log, student and result in the run's directory."""
    preset = job.parsed()
    if preset.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)  # adaptive pooling has no deterministic CUDA backward
    with world(job.device) as here, screen(quiet=not here.is_first) as shown, stop_requests() as stop:
        reset_peak_memory(job.device)
        try:
            Training(job, here, shown, stop).run()
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"out of GPU memory: {str(error).splitlines()[0]}",
                "--amp bf16, a smaller --batch-size with --set schedule.accumulate=2, or --set schedule.crop=[384,384]",
            ) from error


class Training:
    """State of one role's training."""

    def __init__(self, job: TrainJob, here: World, shown: Screen, stop: StopRequest) -> None:
        self.preset = job.parsed()
        self.role, self.decoded = job.role, job.decoded
        self.here, self.shown, self.stop = here, shown, stop
        self.schedule = self.preset.schedule_for(job.role)
        self.files = RunDir(Path(job.run_dir))
        self.info = dataset_info(self.preset)
        self.train_samples = find_samples(self.info, "train")
        self.val_samples = find_samples(self.info, "val")
        self.built = build_distiller(self.preset, self.role, self.info.num_classes, device=job.device, say=shown.say)
        self.model = self.built.distiller.place(here.device, inference_network)
        self.wrapped: nn.Module = self.model
        if here.size > 1:
            ids = [here.device.index] if here.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(self.model, device_ids=ids)
        self.step = TrainStep(self.model, self.wrapped, self.schedule, here.device)
        self.iteration, self.evaluated = 0, 0
        self.seconds, self.data_seconds = 0.0, 0.0  # of training alone: no evaluation, no checkpoints
        self.best = -1.0
        self._restore()
        self.logged = self._clock()

    def run(self) -> None:
        """The loop: step, log, evaluate, save; then the student."""
        schedule = self.schedule
        self._announce()
        self.journal = Journal(self.files, self.shown, self.role, total=schedule.iters, done=self.iteration)
        matrix = self._evaluate() if self._evaluation_is_owed() else None
        self.model.train()
        mark = time.perf_counter()
        for batches in self._batches():
            self.data_seconds += time.perf_counter() - mark
            self._seed(self.iteration)
            named = self.step(batches, self.iteration)
            self.iteration += 1
            self.seconds += time.perf_counter() - mark
            mark = time.perf_counter()
            if self._due(schedule.log_interval):
                self._log(named)
                self.seconds += time.perf_counter() - mark  # on GPUs, the steps are waited for here
            self.journal.tick(self.iteration)
            stopped = self.here.any(self.stop.signum)
            if stopped:
                self._save(best=False)
                self._leave(stopped)
            elif self._due(schedule.eval_interval):
                matrix = self._evaluate()
            elif self._due(schedule.checkpoint_interval):
                self._save(best=False)
            mark = time.perf_counter()
        self.journal.close()
        assert matrix is not None  # the last iteration is always evaluated
        self._finish(matrix)

    def _evaluation_is_owed(self) -> bool:
        """A run stopped before or during an evaluation makes up for it; one stopped at the end needs its counts."""
        owed = self.iteration > self.evaluated or self.iteration == self.schedule.iters
        return self.iteration > 0 and owed and self._due(self.schedule.eval_interval)

    def _due(self, interval: int) -> bool:
        return self.iteration % interval == 0 or self.iteration == self.schedule.iters

    def _announce(self) -> None:
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        schedule, here = self.schedule, self.here
        images = schedule.batch_size * schedule.accumulate * here.size
        norm = "plain batch norm (SyncBN needs GPUs)" if here.device.type == "cpu" else "SyncBN"
        self.shown.say(
            f"{self.preset.name} {self.role}: {schedule.iters} iterations of {images} images on {here.size} "
            f"{here.device.type} worker(s), {trained / 1e6:.2f} M trained parameters, {norm}, "
            f"{len(self.train_samples)} training and {len(self.val_samples)} validation images"
        )
        if self.iteration:
            self.shown.say(f"resumed after iteration {self.iteration}")

    def _batches(self) -> Iterator[list[Batch]]:
        schedule = self.schedule
        files = SampleFiles(self.info, self.train_samples)
        dataset = TrainSet(
            files if self.decoded is None else DecodedImages(self.decoded, files), scale=self.info.scale,
            crop=schedule.crop, ratio_range=self.preset.data.ratio_range, seed=self.preset.seed,
        )  # fmt: skip
        sampler = StepSampler(
            len(dataset), batch_size=schedule.batch_size, seed=self.preset.seed, world_size=self.here.size,
            rank=self.here.rank, accumulate=schedule.accumulate, first_step=self.iteration, last_step=schedule.iters,
        )  # fmt: skip
        return training_batches(dataset, sampler, schedule.workers, pin=self.here.device.type == "cuda")

    def _seed(self, step: int) -> None:
        """Dropout and MGD's mask depend on (seed, step, rank) alone."""
        state = np.random.SeedSequence([self.preset.seed, step, self.here.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    def _log(self, named: dict[str, Tensor]) -> None:
        """Means over the workers; a loss that is not finite ends the run."""
        values = torch.stack([value.detach().float() for value in named.values()])
        raw = dict(zip(named, (self.here.sum(values) / self.here.size).tolist(), strict=True))
        wrong = [name for name, value in raw.items() if not math.isfinite(value)]
        if wrong:
            raise RunError(
                f"loss `{wrong[0]}` is {raw[wrong[0]]} at iteration {self.iteration}",
                "lower the learning rate with --set schedule.lr=…, or clip gradients with --set schedule.clip_grad=10",
            )
        steps, seconds, data_seconds = (
            now - before for now, before in zip(self._clock(), self.logged, strict=True)
        )  # since the last line
        self.logged = self._clock()
        self.journal.step(
            self.iteration, lr=self.step.lr, losses=raw, weights=self.model.weights, seconds=seconds / steps,
            data_seconds=data_seconds / steps, peak_memory=peak_memory(self.here.device.type),
        )  # fmt: skip

    def _clock(self) -> tuple[int, float, float]:
        return self.iteration, self.seconds, self.data_seconds

    def _evaluate(self) -> ConfusionMatrix:
        """Counts over the validation images, keeps the best, and saves."""
        self.here.share_buffers(self.model.student)
        matrix = self._count()
        stopped = self.here.any(self.stop.signum)
        if stopped:
            self._save(best=False)
            self._leave(stopped)
        if self.evaluated == self.iteration:  # logged and saved before the run was stopped
            return matrix
        miou = matrix.result().miou
        better = miou > self.best
        self.best = max(self.best, miou)
        self.evaluated = self.iteration
        self.journal.validation(self.iteration, miou, self.best)
        self._save(best=better)
        self.model.train()
        return matrix

    def _count(self) -> ConfusionMatrix:
        dataset = EvalSet(self.info, self.val_samples)
        share = math.ceil(len(dataset) / self.here.size)
        meter = self.shown.meter("validation", share)
        matrix = evaluate(
            self.model.student, dataset, self.here, workers=self.schedule.workers, meter=meter,
            should_stop=lambda: bool(self.stop.signum),
        )  # fmt: skip
        if meter is not None:
            meter.close()
        return matrix

    def _save(self, *, best: bool) -> None:
        if self.here.is_first:
            contents = {
                "meta": self._meta(RUN_KIND),
                "state_dict": self.model.state_dict(),
                **self.step.state(),
                "iteration": self.iteration,
                "evaluated": self.evaluated,
                "best_miou": self.best,
                "seconds": self.seconds,
                "data_seconds": self.data_seconds,
            }
            self.files.save(contents, self.iteration, best=best, keep=self.schedule.keep)
        self.here.wait()

    def _restore(self) -> None:
        found = self.files.last.is_file()
        if self.here.any(found) and not self.here.all(found):
            raise RmrkdError(
                f"`{self.files.last}` is seen by some workers and not by others",
                "with several machines the run directory must be on storage they share",
            )
        if not found:
            if self.here.is_first:
                self.files.trim_log(0)
            return
        saved = read_checkpoint(self.files.last)
        before = saved.meta.get("world_size"), saved.meta.get("batch_size")
        now = self.here.size, self.schedule.batch_size
        if before != now:
            raise RmrkdError(
                f"`{self.files.path}` was trained by {before[0]} worker(s) of {before[1]} images, and is resumed by "
                f"{now[0]} of {now[1]}: it would see other batches",
                f"--gpus {before[0]} --batch-size {before[1]}",
            )
        load_into(self.model, saved.state, str(self.files.last))
        self.step.restore(saved.rest)
        self.iteration = int(saved.rest["iteration"])
        self.best = float(saved.rest["best_miou"])
        self.evaluated = int(saved.rest["evaluated"])
        self.seconds, self.data_seconds = float(saved.rest["seconds"]), float(saved.rest["data_seconds"])
        if self.here.is_first:
            self.files.trim_log(self.iteration)

    def _leave(self, signum: int) -> None:
        raise Interrupted(
            signum, f"stopped by signal {signum} after iteration {self.iteration}; the state is saved",
            "the same command with --resume goes on",
        )  # fmt: skip

    def _finish(self, matrix: ConfusionMatrix) -> None:
        """Writes the student as a plain mmsegmentation checkpoint, reads it back, and records the result."""
        if self.here.is_first:
            network = self.model.student
            meta = self._meta(STUDENT_KIND)
            state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
            save_torch({"meta": meta, "state_dict": state}, self.files.student)
            load_into(network, read_checkpoint(self.files.student).student(), str(self.files.student))
            training = {
                "iterations": self.iteration,
                "seconds": self.seconds,
                "seconds_per_step": self.seconds / max(1, self.iteration),
                "workers": self.here.size,
                "device": device_name(self.here.device),
            }
            record = make_record(
                matrix, protocol(self.info, self.val_samples, "val"), name=self.preset.name, role=self.role,
                method=self.preset.method, seed=self.preset.seed, checkpoint=str(self.files.student), training=training,
                best_miou=self.best, **cost(network, self.info.eval_scale),
            )  # fmt: skip
            write_text(to_json(record), self.files.result)
        self.here.wait()

    def _meta(self, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "CLASSES": tuple(self.info.classes),
            "PALETTE": [list(colour) for colour in self.info.palette],
            "config": mmseg_config_text(self.built.config, self.info),
            "preset": self.preset.model_dump(mode="json", exclude_none=True),
            "dataset": self.info.name,
            "role": self.role,
            "method": self.preset.method,
            "seed": self.preset.seed,
            "iterations": self.iteration,
            "world_size": self.here.size,
            "batch_size": self.schedule.batch_size,
            "sources": self.built.sources,
            "versions": {"rmrkd": __version__, "torch": str(torch.__version__)},
        }
