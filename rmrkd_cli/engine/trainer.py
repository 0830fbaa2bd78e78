"""The training loop, from the first step to the exported student."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.atomic import write_text
from rmrkd_cli.checkpoint import RUN_KIND, STUDENT_KIND
from rmrkd_cli.console import Screen, screen
from rmrkd_cli.data.catalog import dataset_info
from rmrkd_cli.data.decoded import DecodedImages
from rmrkd_cli.data.files import SampleFiles
from rmrkd_cli.data.loader import Batch, lost_loaders_named, training_batches
from rmrkd_cli.data.order import StepSampler
from rmrkd_cli.data.samples import Sample, find_samples
from rmrkd_cli.data.transforms import EvalSet, TrainSet
from rmrkd_cli.engine import teacher_check
from rmrkd_cli.engine.build import build_distiller
from rmrkd_cli.engine.determinism import make_deterministic, seed_step, warm_buckets
from rmrkd_cli.engine.distributed import World, world
from rmrkd_cli.engine.evaluate import cost, evaluate, protocol
from rmrkd_cli.engine.export import checkpoint_meta, training_facts, write_student
from rmrkd_cli.engine.finite import (
    MOST_IN_ROW,
    MOST_OVERFLOWS,
    everyone,
    keep_for_replay,
    not_finite,
    overflow_error,
    run_error,
)
from rmrkd_cli.engine.image_counts import ImageCounts
from rmrkd_cli.engine.inference import inference_network
from rmrkd_cli.engine.job import TrainJob
from rmrkd_cli.engine.journal import Journal
from rmrkd_cli.engine.machine import peak_memory, reset_peak_memory
from rmrkd_cli.engine.run_dir import RunDir
from rmrkd_cli.engine.state import RunState
from rmrkd_cli.engine.step import TrainStep
from rmrkd_cli.engine.verdict import ERRORS
from rmrkd_cli.errors import Interrupted, RunError, first_line
from rmrkd_cli.report import make_record, to_json
from rmrkd_cli.signals import StopRequest, stop_requests


def run_training(job: TrainJob) -> None:
    """Trains one role, or only measures its teacher; leaves checkpoints, log, student and result in its directory."""
    launched = ERRORS in os.environ
    with lost_loaders_named(), world(job.device) as here, screen(quiet=not here.is_first) as shown:
        reset_peak_memory(job.device)
        try:
            training = Training(job, here, shown)
            with stop_requests(patient=launched) as stop:  # before and after there is nothing to save
                training.measure_teacher(stop)
                if job.only_measure:
                    return
                matrix = training.run(stop)
            if stop.signum:  # after the last agreement
                training.leave(stop.signum)
            training.finish(matrix)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"out of GPU memory: {first_line(error)}",
                "--amp bf16, a smaller --batch-size with --set schedule.accumulate=2, or --set schedule.crop=[384,384]",
            ) from error


class Training:
    """State of one role's training."""

    def __init__(self, job: TrainJob, here: World, shown: Screen) -> None:
        self.preset = job.parsed()
        self.job, self.role = job, job.role
        self.here, self.shown = here, shown
        self.schedule = self.preset.schedule_for(job.role)
        self.files = RunDir(Path(job.run_dir))
        self.info = dataset_info(self.preset)
        self.train_samples = find_samples(self.info, "train")
        self.val_samples = find_samples(self.info, "val")
        self.built = build_distiller(self.preset, self.role, self.info.num_classes, device=job.device, say=shown.say)
        if self.preset.deterministic:
            make_deterministic(self.built.distiller.student, job.device)
        self.model = self.built.distiller.place(here.device, inference_network)
        self.wrapped: nn.Module = self.model
        if here.size > 1:
            ids = [here.device.index] if here.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(self.model, device_ids=ids)
        self.step = TrainStep(self.model, self.wrapped, self.schedule, here.device)
        teacher = self.built.sources.get("teacher")
        self.state = RunState(self.files, self.model, self.step, self.schedule, here, teacher)
        self.progress = self.state.restore(shown.say, force=job.force)
        self.logged = self._clock()
        self.teacher_before = self.model.teacher_digest()

    def measure_teacher(self, stop: StopRequest) -> None:
        """Before the first step, and before anything is written; a run that is resumed has the same teacher.

        Raises:
            RmrkdError: When its mIoU is below the floor.
            Interrupted: After a signal.
        """
        teacher, self.stop = self.model.teacher, stop
        if teacher is None or self.progress.iteration:
            return
        samples = teacher_check.chosen(self.val_samples)
        matrix, stopped = self._count(teacher, samples, "teacher", prepared=True)
        if stopped:
            name = signal.Signals(stopped).name
            raise Interrupted(stopped, f"stopped by {name} before the first iteration", "the same command starts it")
        self.shown.say(teacher_check.judge(matrix, len(samples), len(self.val_samples), self.preset))

    def run(self, stop: StopRequest) -> ImageCounts:
        """The loop: step, log, evaluate, save; returns the counts of the last evaluation.

        Raises:
            Interrupted: After a signal, when the state is saved.
        """
        schedule, progress, self.stop = self.schedule, self.progress, stop
        self._announce()
        self.journal = Journal(
            self.files, self.shown, self.role, total=schedule.iters, done=progress.iteration, lines=progress.log_lines
        )
        matrix = self._evaluate() if self._evaluation_is_owed() else None
        self.model.train()
        if self.here.size > 2:
            warm_buckets(self.model, self.wrapped, schedule.crop, self.here.device)
        mark = time.perf_counter()
        for batches in self._batches():
            progress.data_seconds += time.perf_counter() - mark
            seed_step(self.preset.seed, progress.iteration, self.here.rank, self.here.device.type)
            named = self.step.backward(batches, progress.iteration)
            stopped = self._update(named, batches)
            progress.iteration += 1
            progress.seconds += time.perf_counter() - mark
            mark = time.perf_counter()
            if self._due(schedule.log_interval) and not progress.skipped_in_row:
                self._log(named)
                progress.seconds += time.perf_counter() - mark  # on GPUs, the steps are waited for here
            self.journal.tick(progress.iteration)
            if stopped:
                self._save(best=False)
                self.leave(stopped)
            elif self._due(schedule.eval_interval):
                matrix = self._evaluate()
            elif self._due(schedule.checkpoint_interval):
                self._save(best=False)
            mark = time.perf_counter()
        self.journal.close()
        if progress.left_out:
            times, files = progress.left_out, len(progress.left_out_files)
            self.shown.say(
                f"the next image was seen {times} time{'s' * (times > 1)} in place of {files} image{'s' * (files > 1)} "
                "that cannot be read"
            )
        assert matrix is not None  # the last iteration is always evaluated
        if met := self.here.any(stop.signum):
            self.leave(met)
        return matrix

    def _update(self, named: dict[str, Tensor], batches: list[Batch]) -> int:
        """Moves the weights, unless a number is wrong on any worker.

        Returns:
            The signal that any worker met, 0 for none: all of them stop after the same step.
        """
        schedule, wrong = self.schedule, not_finite(named, self.step.gradient_norm())
        left_out = [message for batch in batches for message in batch.left_out]
        failed, stopped, lost = self.here.largest(bool(wrong), self.stop.signum, len(left_out))
        progress, step = self.progress, self.progress.iteration + 1
        if lost:
            self._leave_out(left_out, step)
        if not failed:
            progress.overflows_in_row = 0 if self.step.update() else progress.overflows_in_row + 1
            progress.skipped_in_row = 0
            if progress.overflows_in_row > MOST_OVERFLOWS:
                raise overflow_error(progress.overflows_in_row, step)
            return stopped
        progress.skipped += 1
        progress.skipped_in_row += 1
        images = [str(self.train_samples[index].image) for batch in batches for index in batch.indices]
        told = everyone(self.here, wrong, images, step)
        give_up = not schedule.skip_nonfinite or progress.skipped_in_row >= MOST_IN_ROW
        if wrong and (give_up or progress.skipped == 1):
            target = self.files.path / "nonfinite" / f"iter_{step}-rank{self.here.rank}.pth"
            told += keep_for_replay(target, batches, images, wrong, self.model.state_dict())
        self.here.wait()
        if give_up:
            raise run_error(told, progress.skipped_in_row if schedule.skip_nonfinite else 0)
        self.step.forget()
        self.journal.skipped(step, told)
        return stopped

    def _leave_out(self, left_out: list[str], step: int) -> None:
        """Counts the images in whose place others were seen on any worker, and names each once."""
        progress = self.progress
        everywhere = [message for told in self.here.gather(left_out) for message in told]
        new = [message for message in dict.fromkeys(everywhere) if message not in progress.left_out_files]
        progress.left_out += len(everywhere)
        progress.left_out_files += new
        self.journal.left_out(step, everywhere, new)

    def _evaluation_is_owed(self) -> bool:
        """A run stopped before or during an evaluation makes up for it; one stopped at the end needs its counts."""
        progress = self.progress
        owed = progress.iteration > progress.evaluated or progress.iteration == self.schedule.iters
        return progress.iteration > 0 and owed and self._due(self.schedule.eval_interval)

    def _due(self, interval: int) -> bool:
        return self.progress.iteration % interval == 0 or self.progress.iteration == self.schedule.iters

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
        if self.progress.iteration:
            self.shown.say(f"resumed after iteration {self.progress.iteration}")

    def _batches(self) -> Iterator[list[Batch]]:
        schedule = self.schedule
        files = SampleFiles(self.info, self.train_samples)
        dataset = TrainSet(
            files if self.job.decoded is None else DecodedImages(self.job.decoded, files), scale=self.info.scale,
            crop=schedule.crop, ratio_range=self.preset.data.ratio_range, seed=self.preset.seed,
            skip_corrupt=schedule.skip_corrupt,
        )  # fmt: skip
        sampler = StepSampler(
            len(dataset), batch_size=schedule.batch_size, seed=self.preset.seed, world_size=self.here.size,
            rank=self.here.rank, accumulate=schedule.accumulate,
            first_step=self.progress.iteration, last_step=schedule.iters,
        )  # fmt: skip
        return training_batches(dataset, sampler, schedule.workers, pin=self.here.device.type == "cuda")

    def _log(self, named: dict[str, Tensor]) -> None:
        """Means over the workers."""
        values = torch.stack([value.detach().float() for value in named.values()])
        raw = dict(zip(named, (self.here.sum(values) / self.here.size).tolist(), strict=True))
        steps, seconds, data_seconds = (
            now - before for now, before in zip(self._clock(), self.logged, strict=True)
        )  # since the last line
        self.logged = self._clock()
        self.journal.step(
            self.progress.iteration, lr=self.step.lr, losses=raw, weights=self.model.weights, seconds=seconds / steps,
            data_seconds=data_seconds / steps, peak_memory=peak_memory(self.here.device.type),
        )  # fmt: skip

    def _clock(self) -> tuple[int, float, float]:
        return self.progress.iteration, self.progress.seconds, self.progress.data_seconds

    def _evaluate(self) -> ImageCounts:
        """Counts over the validation images, keeps the best, and saves."""
        progress = self.progress
        self._check_teacher()
        self.here.share_buffers(self.model.student)
        matrix, stopped = self._count(self.model.student, self.val_samples, "validation")
        if stopped:
            self._save(best=False)
            self.leave(stopped)
        if progress.evaluated == progress.iteration:  # logged and saved before the run was stopped
            return matrix
        miou = matrix.result().miou
        better = miou > progress.best_miou
        if better:
            progress.best_miou, progress.best_iteration = miou, progress.iteration
        progress.evaluated = progress.iteration
        self.journal.validation(progress.iteration, miou, progress.best_miou)
        self._save(best=better)
        self.model.train()
        return matrix

    def _count(
        self, network: nn.Module, samples: list[Sample], title: str, *, prepared: bool = False
    ) -> tuple[ImageCounts, int]:
        """The counts, and the signal that any worker met meanwhile: all of them stop after the same image."""
        dataset = EvalSet(self.info, samples)
        share = math.ceil(len(dataset) / self.here.size)
        meter = self.shown.meter(title, share)
        met = 0

        def should_stop() -> bool:
            nonlocal met
            met = self.here.any(self.stop.signum)
            return bool(met)

        matrix = evaluate(
            network, dataset, self.here, workers=self.schedule.workers, meter=meter, should_stop=should_stop,
            prepared=prepared,
        )  # fmt: skip
        if meter is not None:
            meter.close()
        return matrix, met

    def _check_teacher(self) -> None:
        if self.model.teacher_digest() != self.teacher_before:
            raise RunError(
                f"the teacher's weights or statistics changed before iteration {self.progress.iteration}",
                "a defect of rmrkd, or of the memory; please report it: --resume goes on from the last checkpoint",
            )

    def _save(self, *, best: bool) -> None:
        self.journal.flush()
        self.progress.log_lines = self.journal.lines
        self.state.save(self.progress, self._meta(RUN_KIND), best=best)

    def leave(self, signum: int) -> None:
        raise Interrupted(
            signum,
            f"stopped by {signal.Signals(signum).name} after iteration {self.progress.iteration} of "
            f"{self.schedule.iters}; the state is saved in `{self.files.checkpoints.last}`",
            "the same command with --resume goes on",
        )

    def finish(self, matrix: ImageCounts) -> None:
        """Writes the student as a plain mmsegmentation checkpoint, reads it back, and records the result."""
        if self.here.is_first:
            network = self.model.student
            write_student(network, self._meta(STUDENT_KIND), self.files.student)
            record = make_record(
                matrix, protocol(self.info, self.val_samples, "val"), per_image=matrix.per_image(self.val_samples),
                name=self.preset.name, role=self.role,
                method=self.preset.method, seed=self.preset.seed, checkpoint=str(self.files.student),
                training=training_facts(self.progress, self.schedule, self.here), best_miou=self.progress.best_miou,
                **cost(network, self.info.eval_scale),
            )  # fmt: skip
            write_text(to_json(record), self.files.result)
        self.here.wait()

    def _meta(self, kind: str) -> dict[str, Any]:
        return checkpoint_meta(
            kind, preset=self.preset, role=self.role, info=self.info, built=self.built,
            iteration=self.progress.iteration,
        )  # fmt: skip
