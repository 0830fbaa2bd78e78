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

from rmrkd_cli.checkpoints.reader import RUN_KIND, STUDENT_KIND
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.loader import Batch, report_lost_loaders
from rmrkd_cli.data.samples import Sample, find_samples
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.job import TrainJob
from rmrkd_cli.distributed.process_group import DistContext, world
from rmrkd_cli.distributed.worker_errors import ERRORS
from rmrkd_cli.errors import Interrupted, RunError, first_line
from rmrkd_cli.evaluation.evaluator import evaluate, make_protocol
from rmrkd_cli.evaluation.flops import count_parameters_and_macs
from rmrkd_cli.evaluation.image_counts import ImageCounts
from rmrkd_cli.evaluation.machine import peak_memory, reset_peak_memory
from rmrkd_cli.evaluation.result_record import make_record
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.results.provenance import provenance
from rmrkd_cli.results.record import to_json
from rmrkd_cli.signals import StopRequest, stop_requests
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.terminal.console import Screen, screen
from rmrkd_cli.training import teacher_check
from rmrkd_cli.training.batches import run_batches
from rmrkd_cli.training.budget import make_budget
from rmrkd_cli.training.determinism import make_deterministic, seed_step, warm_buckets
from rmrkd_cli.training.gradient_update import GradientUpdate
from rmrkd_cli.training.logger import TrainingLogger
from rmrkd_cli.training.loss_weights import RULE, balanced_weights, first_batches, open_weights
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.resume import RunState
from rmrkd_cli.training.run_directory import RunDir
from rmrkd_cli.training.student_file import checkpoint_meta, training_facts, write_student
from rmrkd_cli.training.tensorboard_images import Pictures


def run_training(job: TrainJob) -> None:
    """Trains one role, or only measures its teacher; leaves checkpoints, log, student and result in its directory."""
    launched = ERRORS in os.environ
    with report_lost_loaders(), world(job.device) as dist_ctx, screen(quiet=not dist_ctx.is_first) as shown:
        reset_peak_memory(job.device)
        try:
            training = Training(job, dist_ctx, shown)
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

    def __init__(self, job: TrainJob, dist_ctx: DistContext, shown: Screen) -> None:
        self.preset = job.parsed()
        self.job, self.role = job, job.role
        self.dist_ctx, self.shown = dist_ctx, shown
        self.schedule = self.preset.schedule_for(job.role)
        self.files = RunDir(Path(job.run_dir))
        self.info = dataset_info(self.preset)
        self.train_samples = find_samples(self.info, "train")
        self.val_samples = find_samples(self.info, "val")
        self.built = build_distiller(
            self.preset, self.role, self.info.num_classes, device=job.device, say=shown.say, code=job.code
        )
        if self.preset.deterministic:
            make_deterministic(self.built.distiller.student, job.device)
        self.model = self.built.distiller.place(dist_ctx.device, inference_network)
        self.wrapped = dist_ctx.wrap(self.model, unused="code" in self.built.sources)  # whose layers may idle
        self.step = TrainStep(self.model, self.wrapped, self.schedule, dist_ctx.device)
        self.state = RunState(self.files, self.model, self.step, self.schedule, dist_ctx, self.built.sources)
        self.progress = self.state.restore(shown.say, force=job.force)
        self.pace = make_budget(self.schedule, self.progress)
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
        self.shown.say(teacher_check.check_teacher_score(matrix, len(samples), len(self.val_samples), self.preset))

    def run(self, stop: StopRequest) -> ImageCounts:
        """The loop: step, log, evaluate, save; returns the counts of the last evaluation.

        Raises:
            Interrupted: After a signal, when the state is saved.
        """
        progress, pace, self.stop = self.progress, self.pace, stop
        self._announce()
        self._settle_weights()
        self.journal = TrainingLogger(self.files, self.shown, self.role, pace, progress)
        self.pictures = Pictures(self.info, self.val_samples, self.dist_ctx.size) if self.dist_ctx.is_first else None
        updates = GradientUpdate(
            self.step, self.dist_ctx, pace, progress, self.journal, self.train_samples, self.files.path / "nonfinite"
        )
        matrix = self._evaluate() if pace.evaluation_owed else None
        self.model.train()
        if self.dist_ctx.size > 2:
            warm_buckets(self.model, self.wrapped, self.schedule.crop, self.dist_ctx.device)
        for batches in pace.steps(self._batches()):
            seed_step(self.preset.seed, progress.iteration, self.dist_ctx.rank, self.dist_ctx.device.type)
            named = self.step.backward(batches, pace.position)
            stopped = updates.apply(named, batches, stop)
            progress.iteration += 1
            pace.count()
            if pace.log_due and not progress.skipped_in_row:
                self._log(named, updates.norm)
                pace.count()  # on GPUs, the steps are waited for here
            self.journal.tick()
            if stopped:
                self._save(best=False)
                self.leave(stopped)
            elif pace.evaluation_due:
                matrix = self._evaluate()
            elif pace.checkpoint_due:
                self._save(best=False)
        self.journal.close()
        if progress.left_out:
            times, files = progress.left_out, len(progress.left_out_files)
            self.shown.say(
                f"the next image was seen {times} time{'s' * (times > 1)} in place of {files} image{'s' * (files > 1)} "
                "that cannot be read"
            )
        assert matrix is not None  # the last iteration is always evaluated
        if met := self.dist_ctx.any(stop.signum):
            self.leave(met)
        return matrix

    def _announce(self) -> None:
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        schedule, dist_ctx = self.schedule, self.dist_ctx
        images = schedule.batch_size * schedule.accumulate * dist_ctx.size
        norm = "plain batch norm (SyncBN needs GPUs)" if dist_ctx.device.type == "cpu" else "SyncBN"
        self.shown.say(
            f"{self.preset.name} {self.role}: {self.pace.goal} of {images} images on {dist_ctx.size} "
            f"{dist_ctx.device.type} worker(s), {trained / 1e6:.2f} M trained parameters, {norm}, "
            f"{len(self.train_samples)} training and {len(self.val_samples)} validation images"
        )
        if self.progress.iteration:
            self.shown.say(f"resumed after {self.pace.stand}")

    def _settle_weights(self) -> None:
        """Computes the weights that are left to the rule; a run that is resumed has them already."""
        names, progress = open_weights(self.preset) if self.role == "distill" else [], self.progress
        if not progress.weights.keys() >= set(names):
            batches = first_batches(
                self.preset, self.schedule, self.info, self.train_samples, self.dist_ctx, self._decoded()
            )
            progress.weights = balanced_weights(
                self.model, batches, names, self.schedule, self.preset.seed, self.dist_ctx
            )
        if names:
            told = ", ".join(f"{name} {progress.weights[name]:g}" for name in names)
            self.shown.say(f"weights by the rule ({RULE}): {told}")
        self.model.weights |= progress.weights

    def _decoded(self) -> Path | None:
        return Path(self.job.decoded) if self.job.decoded is not None else None

    def _batches(self) -> Iterator[list[Batch]]:
        return run_batches(
            self.preset, self.schedule, self.info, self.train_samples, self.dist_ctx,
            first_step=self.progress.iteration, last_step=self.pace.last_step, decoded=self._decoded(),
        )  # fmt: skip

    def _log(self, named: dict[str, Tensor], norm: Tensor | None) -> None:
        """Means over the workers."""
        values = torch.stack([value.detach().float() for value in named.values()])
        raw = dict(zip(named, (self.dist_ctx.sum(values) / self.dist_ctx.size).tolist(), strict=True))
        steps, seconds, data_seconds = (
            now - before for now, before in zip(self._clock(), self.logged, strict=True)
        )  # since the last line
        self.logged = self._clock()
        if self.dist_ctx.is_first:
            self.journal.step(
                lr=self.step.lr, losses=raw, weights=self.model.weights,
                norm=None if norm is None else float(norm), parts=self.step.norms_of_parts(),
                seconds=seconds / steps, data_seconds=data_seconds / steps, elapsed=self.progress.seconds,
                peak_memory=peak_memory(self.dist_ctx.device.type),
            )  # fmt: skip

    def _clock(self) -> tuple[int, float, float]:
        return self.progress.iteration, self.progress.seconds, self.progress.data_seconds

    def _evaluate(self) -> ImageCounts:
        """Counts over the validation images, keeps the best, and saves."""
        progress = self.progress
        self._check_teacher()
        self.dist_ctx.share_buffers(self.model.student)
        began = time.perf_counter()
        matrix, stopped = self._count(self.model.student, self.val_samples, "validation", pictures=self.pictures)
        if stopped:
            self._save(best=False)
            self.leave(stopped)
        if progress.evaluated == progress.iteration:  # logged and saved before the run was stopped
            return matrix
        miou = matrix.result().miou
        better = miou > progress.best_miou
        if better:
            progress.best_miou, progress.best_iteration = miou, progress.iteration
        self.pace.evaluated()
        self.journal.validation(miou, time.perf_counter() - began)
        if self.pictures is not None:
            self.journal.pictures(self.pictures.made)
        self._save(best=better)
        self.model.train()
        return matrix

    def _count(
        self,
        network: nn.Module,
        samples: list[Sample],
        title: str,
        *,
        prepared: bool = False,
        pictures: Pictures | None = None,
    ) -> tuple[ImageCounts, int]:
        """The counts, and the signal that any worker met meanwhile: all of them stop after the same image."""
        dataset = EvalSet(self.info, samples)
        share = math.ceil(len(dataset) / self.dist_ctx.size)
        meter = self.shown.meter(title, share)
        met = 0

        def should_stop() -> bool:
            nonlocal met
            met = self.dist_ctx.any(self.stop.signum)
            return bool(met)

        matrix = evaluate(
            network, dataset, self.dist_ctx, workers=self.schedule.workers, meter=meter, should_stop=should_stop,
            on_prediction=pictures.show if pictures is not None else None, prepared=prepared,
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
        self.pace.saved()

    def leave(self, signum: int) -> None:
        raise Interrupted(
            signum,
            f"stopped by {signal.Signals(signum).name} after {self.pace.stand}; the state is saved in "
            f"`{self.files.checkpoints.last}`",
            "the same command with --resume goes on",
        )

    def finish(self, matrix: ImageCounts) -> None:
        """Writes the student as a plain mmsegmentation checkpoint, reads it back, and records the result."""
        if self.dist_ctx.is_first:
            network = self.model.student
            write_student(network, self._meta(STUDENT_KIND), self.files.student)
            record = make_record(
                matrix, make_protocol(self.info, self.val_samples, "val"), per_image=matrix.per_image(self.val_samples),
                name=self.preset.name, role=self.role,
                method=self.preset.method, seed=self.preset.seed, checkpoint=str(self.files.student),
                training=training_facts(self.progress, self.schedule, self.dist_ctx, self._weights()),
                best_miou=self.progress.best_miou,
                **provenance(self.files.student, self.built.sources),
                **count_parameters_and_macs(network, self.info.eval_scale),
            )  # fmt: skip
            write_text(to_json(record), self.files.result)
        self.dist_ctx.wait()

    def _weights(self) -> dict[str, float]:
        """Of the distillation losses."""
        return {name: self.model.weights[name] for name in self.model.losses}

    def _meta(self, kind: str) -> dict[str, Any]:
        return checkpoint_meta(
            kind, preset=self.preset, role=self.role, info=self.info, built=self.built,
            iteration=self.progress.iteration,
        )  # fmt: skip
