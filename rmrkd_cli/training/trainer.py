"""The training loop of one role."""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import Tensor

from rmrkd_cli.checkpoints.reader import RUN_KIND
from rmrkd_cli.data.loader import report_lost_loaders
from rmrkd_cli.data.samples import fingerprint
from rmrkd_cli.distributed.coordination import current_coordinator
from rmrkd_cli.distributed.job import TrainJob
from rmrkd_cli.distributed.process_group import DistContext, distributed_context
from rmrkd_cli.distributed.worker_errors import ERRORS
from rmrkd_cli.errors import Interrupted, RunError, summarize_error
from rmrkd_cli.evaluation.image_counts import ImageCounts
from rmrkd_cli.evaluation.machine import peak_memory, reset_peak_memory
from rmrkd_cli.evaluation.precision import float32_precision
from rmrkd_cli.presets.schedule_schema import Optimizer
from rmrkd_cli.results.training_images import describe_images
from rmrkd_cli.signals import StopRequest, stop_requests
from rmrkd_cli.terminal.live_display import LiveDisplay, live_display
from rmrkd_cli.training.batches import loader_processes
from rmrkd_cli.training.budget import MICROSECOND, make_budget
from rmrkd_cli.training.determinism import seed_step, warm_up_ddp_buckets
from rmrkd_cli.training.gradient_update import GradientUpdate
from rmrkd_cli.training.loader_watch import LoaderWatch
from rmrkd_cli.training.logger import TrainingLogger
from rmrkd_cli.training.loss_weights import auto_weighted_losses, compute_auto_weights, describe_rule, first_batches
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.result import result_scalars, write_result
from rmrkd_cli.training.resume import Checkpointer
from rmrkd_cli.training.setup import set_up_training
from rmrkd_cli.training.teacher_check import (
    check_teacher_score,
    choose_images,
    describe_feature_teacher,
    describe_stored_score,
)
from rmrkd_cli.training.tracked_run import describe_run
from rmrkd_cli.training.trackers.base import LoggedBefore
from rmrkd_cli.training.trackers.group import Trackers
from rmrkd_cli.training.trackers.store import read_logged
from rmrkd_cli.training.validation import Validator
from rmrkd_cli.training.validation_images import ValidationImages
from rmrkd_cli.training.validation_watch import report_validation


def run_training(job: TrainJob) -> None:
    """Train one role, or only measure its teacher; every worker process calls this.

    Writes checkpoints, the log, the student and the result to the run directory.

    Raises:
        RmrkdError: When the teacher's mIoU is below its minimum, or the run cannot be resumed.
        RunError: When the training fails.
        Interrupted: After a signal, when the state is saved.
    """
    under_launcher = ERRORS in os.environ or current_coordinator() is not None
    with (
        report_lost_loaders(),
        distributed_context(job.device) as dist_ctx,
        live_display(quiet=not dist_ctx.is_rank0) as terminal,
        float32_precision(job.preset.schedule_for(job.role).tf32),
    ):
        reset_peak_memory(job.device)
        try:
            trainer = Trainer(job, dist_ctx, terminal)
            with trainer.trackers.closed_at_end():
                with stop_requests(ignore_repeats=under_launcher) as stop:  # there is nothing to save before and after
                    trainer.measure_teacher(stop)
                    if job.only_measure:
                        return
                    counts = trainer.train(stop)
                if stop.signum:  # received after the workers last compared their signals
                    raise trainer.interrupted(stop.signum)
                trainer.finish(counts)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"out of GPU memory: {summarize_error(error)}",
                "--amp bf16, a smaller --batch-size with --set schedule.accumulate=2, or --set schedule.crop=[384,384]",
            ) from error


class Trainer:
    """Trains one role; resumes from the newest checkpoint in its run directory."""

    def __init__(self, job: TrainJob, dist_ctx: DistContext, terminal: LiveDisplay) -> None:
        self.dist_ctx, self.terminal = dist_ctx, terminal
        self.trackers, self.track = Trackers(), job.track
        self.setup = setup = set_up_training(job, dist_ctx, terminal.log)
        self.model = setup.model
        self.step = TrainStep(setup.model, setup.wrapped, setup.schedule, dist_ctx.device)
        self.checkpointer = Checkpointer(
            setup.run_dir, setup.model, self.step, setup.schedule, dist_ctx, setup.built.sources,
            setup.training_images, fingerprint(setup.train_samples),
        )  # fmt: skip
        # Before the next line removes what the log has beyond the checkpoint.
        self.logged_before = read_logged(setup.run_dir.path) if dist_ctx.is_rank0 else LoggedBefore()
        self.progress = self.checkpointer.restore(terminal.log, force=job.force)
        self.budget = make_budget(setup.schedule, self.progress)
        self.validator = Validator(setup.info, dist_ctx, terminal, setup.schedule.workers)
        processes, cached = loader_processes(setup.schedule, dist_ctx), setup.image_cache is not None
        self.loader_watch = LoaderWatch(processes, dist_ctx.local_size, cached=cached, log=terminal.log)
        self.last_log = self._clock()

    def measure_teacher(self, stop: StopRequest) -> None:
        """Measure the teacher's mIoU before the first step; a resumed run has the same teacher and skips this.

        Raises:
            RmrkdError: When the mIoU is below its minimum.
            Interrupted: After a signal.
        """
        if self.setup.built.index is not None and not self.progress.iteration:
            self.terminal.log(describe_stored_score(self.setup.preset, self.setup.built.index))
        teacher, samples = self.model.teacher, self.setup.val_samples
        if teacher is None or self.progress.iteration:
            return
        if not self.model.teacher_gives_logits:
            self.terminal.log(describe_feature_teacher(self.setup.preset, self.setup.run_dir.student))
            return
        chosen = choose_images(samples)
        counts, signum = self.validator.count(teacher, chosen, "teacher", stop, prepared=True)
        if signum:
            name = signal.Signals(signum).name
            raise Interrupted(signum, f"stopped by {name} before the first iteration", "run the same command again")
        self.terminal.log(check_teacher_score(counts, len(chosen), len(samples), self.setup.preset))

    def train(self, stop: StopRequest) -> ImageCounts:
        """Step, log, validate and save until the budget is used up; return the counts of the last validation.

        Raises:
            Interrupted: After a signal, when the state is saved.
        """
        setup, progress, budget, dist_ctx = self.setup, self.progress, self.budget, self.dist_ctx
        self._announce()
        self._set_auto_weights()
        if dist_ctx.is_rank0:
            run = describe_run(setup, progress, dist_ctx, self.logged_before)
            self.trackers.open(self.track, run)
        self.logger = TrainingLogger(setup.run_dir, self.terminal, setup.role, budget, progress, self.trackers)
        self.images = ValidationImages(setup.info, setup.val_samples, dist_ctx.size) if dist_ctx.is_rank0 else None
        update = GradientUpdate(setup, self.step, dist_ctx, budget, progress, self.logger)
        counts = self._validate(stop) if budget.validation_pending else None
        self.model.train()
        if dist_ctx.size > 2:
            warm_up_ddp_buckets(self.model, setup.wrapped, setup.schedule.crop, dist_ctx.device)

        for batches in budget.steps(setup.batches(dist_ctx, progress.iteration, budget.last_step)):
            seed_step(setup.preset.seed, progress.iteration, dist_ctx.rank, dist_ctx.device.type)
            losses = self.step.backward(batches, budget.position)
            signum = update.step(losses, batches, stop)
            progress.iteration += 1
            if signum or budget.log_due or budget.validation_due or budget.checkpoint_due:
                update.finish_step()
            budget.add_elapsed_time()
            if budget.log_due and not progress.skipped_in_row:
                self._log_step(losses, update.gradient_norm)
                budget.add_elapsed_time()  # reading the losses waits for the GPU
            self.logger.update_status()
            if signum:
                self._save_checkpoint()
                raise self.interrupted(signum)
            if budget.validation_due:
                counts = self._validate(stop)
            elif budget.checkpoint_due:
                self._save_checkpoint()

        self.logger.close()
        self.loader_watch.report()
        self._report_corrupt_images()
        (signum,) = dist_ctx.all_reduce_max(stop.signum)
        if signum:
            raise self.interrupted(signum)
        assert counts is not None  # the last iteration is always validated
        return counts

    def finish(self, counts: ImageCounts) -> None:
        """Write the student and the result record."""
        if self.dist_ctx.is_rank0:
            record, run_dir = write_result(self.setup, counts, self.progress, self.dist_ctx), self.setup.run_dir
            files = (run_dir.student, run_dir.result, run_dir.config)
            self.logger.log_result(result_scalars(record, self.setup.info.classes), files)
        self.dist_ctx.barrier()

    def interrupted(self, signum: int) -> Interrupted:
        """Return the error that ends a run after a signal, when its state is saved."""
        return Interrupted(
            signum,
            f"stopped by {signal.Signals(signum).name} after {self.budget.describe_position()}; the state is saved in "
            f"`{self.setup.run_dir.checkpoints.last}`",
            "run the same command with --resume",
        )

    def _validate(self, stop: StopRequest) -> ImageCounts:
        """Measure the student on the validation images, log the mIoU, and save; update the best checkpoint."""
        progress = self.progress
        self.dist_ctx.broadcast_buffers(self.model.student)
        started = time.perf_counter()
        counts, signum = self.validator.count(
            self.model.student, self.setup.val_samples, "validation", stop, images=self.images
        )
        if signum:
            self._save_checkpoint()
            raise self.interrupted(signum)
        if progress.evaluated == progress.iteration:  # logged and saved before the run was stopped
            return counts
        result = counts.result()
        miou = result.miou
        is_best = miou > progress.best_miou
        if is_best:
            progress.best_miou, progress.best_iteration = miou, progress.iteration
        self.budget.mark_validated()
        class_iou = dict(zip(self.setup.info.classes, result.iou.tolist(), strict=True))
        self.logger.log_validation(miou, class_iou, time.perf_counter() - started)
        if self.images is not None:
            self.logger.log_images(self.images.sheets)
        self._save_checkpoint(is_best=is_best)
        if self.dist_ctx.is_rank0:
            report_validation(progress.iteration, miou)
        self.model.train()
        return counts

    def _save_checkpoint(self, *, is_best: bool = False) -> None:
        self.logger.flush()
        self.progress.log_lines = self.logger.line_count
        meta = self.setup.checkpoint_meta(RUN_KIND, self.progress.iteration)
        self.checkpointer.save(self.progress, meta, is_best=is_best)
        self.budget.mark_saved()

    def _log_step(self, losses: dict[str, Tensor], gradient_norm: Tensor | None) -> None:
        """Log the mean losses of all workers, and the mean time of a step since the last log line."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        means = (self.dist_ctx.all_reduce_sum(values) / self.dist_ctx.size).tolist()
        before, self.last_log = self.last_log, self._clock()
        steps, seconds, data_seconds = (now - then for now, then in zip(self.last_log, before, strict=True))
        (slowest,) = self.dist_ctx.all_reduce_max(round(data_seconds / MICROSECOND))
        self.loader_watch.add(slowest * MICROSECOND, seconds)
        if self.dist_ctx.is_rank0:
            self.logger.log_step(
                lr=self.step.lr, losses=dict(zip(losses, means, strict=True)), weights=self.model.weights,
                gradient_norm=None if gradient_norm is None else float(gradient_norm),
                part_norms=self.step.part_gradient_norms(),
                seconds=seconds / steps, data_seconds=data_seconds / steps, elapsed=self.progress.seconds,
                peak_memory=peak_memory(self.dist_ctx.device.type),
            )  # fmt: skip

    def _clock(self) -> tuple[int, float, float]:
        return self.progress.iteration, self.progress.seconds, self.progress.data_seconds

    def _announce(self) -> None:
        """Print what is trained, on what, and for how long."""
        setup, schedule, dist_ctx = self.setup, self.setup.schedule, self.dist_ctx
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        images = schedule.batch_size * schedule.accumulate * dist_ctx.size
        norm = "BatchNorm (SyncBN needs GPUs)" if dist_ctx.device.type == "cpu" else "SyncBN"
        self.terminal.log(
            f"{setup.preset.name} {setup.role}: {self.budget.target_text} of {images} images on {dist_ctx.size} "
            f"{dist_ctx.device.type} worker(s), {trained / 1e6:.2f} M trained parameters, {norm}, "
            f"training on {describe_images(setup.training_images)}, {len(setup.val_samples)} validation images"
        )
        if schedule.optimizer != Optimizer() or schedule.warmup is not None:
            self.terminal.log(self.step.describe_optimizer())
        if self.progress.iteration:
            self.terminal.log(f"resumed after {self.budget.describe_position()}")

    def _set_auto_weights(self) -> None:
        """Compute the loss weights that the preset sets to `auto`; a resumed run has them in its checkpoint."""
        setup, progress = self.setup, self.progress
        names = auto_weighted_losses(setup.preset) if setup.role == "distill" else []
        if not progress.weights.keys() >= set(names):
            batches = first_batches(
                setup.preset,
                setup.schedule,
                setup.info,
                setup.train_samples,
                self.dist_ctx,
                setup.image_cache,
                setup.outputs,
            )
            progress.weights = compute_auto_weights(
                self.model, batches, names, setup.schedule, setup.preset.seed, self.dist_ctx
            )
        if names:
            weights = ", ".join(f"{name} {progress.weights[name]:g}" for name in names)
            self.terminal.log(f"automatic loss weights ({describe_rule(setup.preset)}): {weights}")
        self.model.weights |= progress.weights

    def _report_corrupt_images(self) -> None:
        times, files = self.progress.left_out, len(self.progress.left_out_files)
        if times:
            self.terminal.log(
                f"{files} unreadable training image(s) were replaced {times} time(s) by the next image in the data set"
            )
