"""Save a run to checkpoints, and resume it exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn

from rmrkd_cli.checkpoints.reader import Checkpoint, load_state_dict_checked, read_checkpoint
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses.cwd import CWDLoss
from rmrkd_cli.networks.mmseg_file import check_same_configs
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.presets.user_code import check_same_code
from rmrkd_cli.results.training_images import describe_images
from rmrkd_cli.terminal.messages import debug
from rmrkd_cli.training.extension import extend, saved_schedule
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.run_directory import RunDir

Log = Callable[[str], None]


class Checkpointer:
    """Saves checkpoints on rank 0, and restores the newest valid one on all workers.

    Args:
        sources: Files of the teacher's weights, of custom losses and of configs, as in a checkpoint's `meta.sources`.
        images: How many images are trained on, as in `meta.training_images`.
        image_names: Fingerprint of their names, see `data.samples.fingerprint`.
    """

    def __init__(
        self,
        run_dir: RunDir,
        model: Distiller,
        step: TrainStep,
        schedule: Schedule,
        dist_ctx: DistContext,
        sources: Mapping[str, Any],
        images: Mapping[str, Any],
        image_names: str,
    ) -> None:
        self.run_dir, self.model, self.step, self.schedule = run_dir, model, step, schedule
        self.dist_ctx, self.sources, self.images, self.image_names = dist_ctx, sources, images, image_names

    def save(self, progress: Progress, meta: dict[str, Any], *, is_best: bool) -> None:
        """Write a checkpoint, and return on every worker when it is written.

        Args:
            is_best: Its mIoU is the best so far.
        """
        if self.dist_ctx.is_rank0:
            self.run_dir.sync_log()
            contents = {
                "meta": {**meta, **self._batch_settings(), "image_names": self.image_names},
                "state_dict": self.model.state_dict(),
                **self.step.state(),
                **progress.to_dict(),
            }
            self.run_dir.checkpoints.save(contents, progress.iteration, best=is_best, keep=self.schedule.keep)
            debug(f"saved the state after iteration {progress.iteration} in `{self.run_dir.path}`")
        self.dist_ctx.barrier()

    def restore(self, log: Log, *, force: bool = False) -> Progress:
        """Restore the newest valid checkpoint, and return its progress; without a checkpoint start from the beginning.

        Args:
            force: Accept another number of workers or batch size, and print what changes.

        Raises:
            RmrkdError: When the checkpoint has another number of workers, batch size, teacher or loss code, or when
                some workers cannot see it.
        """
        checkpoints = self.run_dir.checkpoints
        path = self.dist_ctx.broadcast_from_rank0(lambda: self._latest_checkpoint(log))
        progress = Progress() if path is None else self._load(path, log, force=force)
        if self.dist_ctx.is_rank0:
            lines = self.run_dir.truncate_log(progress.log_lines)
            if lines < progress.log_lines:
                log(f"`{self.run_dir.log}` has lost {progress.log_lines - lines} of {progress.log_lines} lines")
                progress.log_lines = lines
            if path is not None:
                checkpoints.repair_links(path, progress.best_iteration, log)
        return progress

    def _latest_checkpoint(self, log: Log) -> Path | None:
        self.run_dir.checkpoints.delete_partial()
        return self.run_dir.checkpoints.latest_valid(log)

    def _load(self, path: Path, log: Log, *, force: bool) -> Progress:
        if not self.dist_ctx.all_reduce_and(path.is_file()):
            raise RmrkdError(
                f"some workers cannot see `{path}`", "put the run directory on storage that all machines share"
            )
        saved = read_checkpoint(path, verified=True)
        self._check_teacher(saved)
        self._check_images(saved)
        check_same_code(saved.meta, self.sources.get("code", {}), self.run_dir.path)
        check_same_configs(saved.meta, self.sources.get("configs", {}), self.run_dir.path)
        changed = self._changed_batch_settings(saved, force=force)
        before = saved_schedule(saved.meta.get("preset"), str(saved.meta.get("role"))) or self.schedule
        progress = _read_progress(saved, self.schedule)
        self._check_cwd(saved)
        load_state_dict_checked(self.model, saved.state, str(path))
        try:
            self.step.restore(saved.rest)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise _unusable(path, f"its optimizer state does not match: {error}") from error
        if extended := extend(progress, before, self.schedule):
            log(extended)
        if self.dist_ctx.device.type == "cuda" and _lacks_tf32(saved.meta.get("preset")):
            log(_describe_tf32(self.schedule.tf32, progress.iteration))
        if changed:
            progress.changes.append({"iteration": progress.iteration, **changed})
            log(_describe_change(saved.meta, self._batch_settings(), progress.iteration))
        return progress

    def _batch_settings(self) -> dict[str, int]:
        """Return the settings that decide which images a step sees, and in which groups."""
        schedule = self.schedule
        return {
            "world_size": self.dist_ctx.size,
            "batch_size": schedule.batch_size,
            "accumulate": schedule.accumulate,
        }

    def _check_teacher(self, saved: Checkpoint) -> None:
        """Raise RmrkdError if the run was distilled from another teacher file."""
        before, now = _teacher_of(saved.meta.get("sources")), _teacher_of(self.sources)
        if before != now:
            raise RmrkdError(
                f"`{self.run_dir.path}` was distilled from a teacher with SHA-256 {_shorten_teacher(before)}, not from "
                f"{_shorten_teacher(now)}",
                "give the same file with --teacher-checkpoint, or the same folder with --teacher-outputs, or start "
                "over with --fresh",
            )

    def _check_images(self, saved: Checkpoint) -> None:
        """Raise RmrkdError if images were added, removed or renamed: each step would see other images.

        Older checkpoints have no `image_names`: of them, the numbers are compared where images are unlabelled.
        """
        before = saved.meta.get("training_images")
        before = before if isinstance(before, Mapping) else {}
        counts = [
            [images.get(key) for key in ("labelled_images", "unlabelled_images")] for images in (before, self.images)
        ]
        if counts[0] != counts[1] and (counts[0][1] or counts[1][1]):
            raise RmrkdError(
                f"`{self.run_dir.path}` was trained on {describe_images(before) or 'other images'}, not on "
                f"{describe_images(self.images)}: each step would see other images",
                "restore the images, or start over with --fresh",
            )
        names = saved.meta.get("image_names", self.image_names)
        if names != self.image_names:
            raise RmrkdError(
                f"the names of the training images are not those that `{self.run_dir.path}` was trained on "
                f"(fingerprint {str(names)[:12]} then, {self.image_names} now): each step would see other images",
                "restore the images and their names, or start over with --fresh",
            )

    def _check_cwd(self, saved: Checkpoint) -> None:
        """Raise RmrkdError if the run began when `align: conv` of `cwd` had a convolution for equal channels too."""
        for name, loss in self.model.losses.items():
            weight = saved.state.get(f"losses.{name}.align.weight")
            square = weight is not None and weight.dim() == 4 and weight.shape[0] == weight.shape[1]
            if isinstance(loss, CWDLoss) and isinstance(loss.align, nn.Identity) and square:
                raise RmrkdError(
                    f"cannot resume from `{saved.path}`: its loss `{name}` has a 1x1 convolution for equal channels, "
                    "which `align: conv` added when the run began, and which is `align: conv-always` now",
                    f"--set losses.{name}.align=conv-always continues the run",
                )

    def _changed_batch_settings(self, saved: Checkpoint, *, force: bool) -> dict[str, Any]:
        """Return name → [before, now] of the settings that differ.

        Raises:
            RmrkdError: When one differs, unless forced.
        """
        meta, now = saved.meta, self._batch_settings()
        changed = {name: [meta.get(name), value] for name, value in now.items() if meta.get(name) != value}
        if changed and not force:
            raise RmrkdError(
                f"`{self.run_dir.path}` was trained by {meta.get('world_size')} worker(s) with batch size "
                f"{meta.get('batch_size')}, not by {now['world_size']} with {now['batch_size']}: each step would see "
                "other images",
                f"--gpus {meta.get('world_size')} --batch-size {meta.get('batch_size')}, or --force to resume anyway",
            )
        return changed


def _teacher_of(sources: Any) -> tuple[Any, Any]:
    """Return the SHA-256 of the teacher's file, and the identity of its stored outputs if these were used."""
    teacher = sources.get("teacher") if isinstance(sources, Mapping) else None
    return (teacher.get("sha256"), teacher.get("outputs")) if isinstance(teacher, Mapping) else (None, None)


def _shorten_teacher(teacher: tuple[Any, Any]) -> str:
    sha256, outputs = teacher
    return f"{str(sha256)[:12]}…" + (f" (stored outputs {str(outputs)[:12]}…)" if outputs is not None else "")


def _read_progress(saved: Checkpoint, schedule: Schedule) -> Progress:
    """Return the progress in a checkpoint.

    Raises:
        RmrkdError: When an entry has a wrong type, or is impossible in this schedule.
    """
    try:
        progress = TypeAdapter(Progress).validate_python(Progress.from_dict(saved.rest).to_dict())
    except ValidationError as error:
        problems = "; ".join(f"`{entry['loc'][0]}`: {entry['msg']}" for entry in error.errors(include_url=False))
        raise _unusable(saved.path, problems) from error
    most = math.inf if schedule.time_budget is not None else schedule.iters
    if not 0 <= progress.iteration <= most or not 0 <= progress.evaluated <= progress.iteration:
        raise _unusable(saved.path, f"it is at iteration {progress.iteration} of {schedule.iters}")
    if not (0 <= progress.seconds < math.inf and 0 <= progress.evaluated_at <= schedule.iters):
        raise _unusable(saved.path, f"its training time is {progress.seconds} seconds")
    return progress


def _lacks_tf32(preset: Any) -> bool:
    """Return whether the preset in a checkpoint is from before the key `schedule.tf32`."""
    schedule = preset.get("schedule") if isinstance(preset, Mapping) else None
    return isinstance(schedule, Mapping) and "tf32" not in schedule


def _describe_tf32(tf32: bool, iteration: int) -> str:
    now = "in convolutions and matrix products" if tf32 else "nowhere"
    return (
        f"the run began before `schedule.tf32` existed and used TF32 in convolutions only; from iteration {iteration} "
        f"on it uses TF32 {now}; the result will differ in rounding"
    )


def _unusable(path: Path, reason: str) -> RmrkdError:
    return RmrkdError(
        f"cannot resume from `{path}`: {reason}", "--fresh starts over and renames the existing run directory"
    )


def _describe_change(meta: dict[str, Any], now: dict[str, int], iteration: int) -> str:
    """Return the text that says what `--force` changes in a run.

    Args:
        meta: Of the checkpoint; may come from anybody.
        now: Of `_batch_settings`.
    """
    names = ("world_size", "batch_size", "accumulate")
    if any(not isinstance(meta.get(name), int) for name in names):
        return f"from iteration {iteration} on: {now['world_size']} worker(s) x {now['batch_size']} images"
    old, new = ([settings[name] for name in names] for settings in (meta, now))
    before, after = (f"{w} worker(s) x {b} images x {a} pass(es)" for w, b, a in (old, new))
    images = [w * b * a for w, b, a in (old, new)]
    if images[0] == images[1]:
        effect = f"a step sees the same {images[0]} images, in other groups for batch norm and for the random mask"
    else:
        effect = (
            f"a step sees {images[1]} images instead of {images[0]} at the same learning rate, and the order of "
            "images changes, so some are seen again and some are not seen"
        )
    return f"--force: from iteration {iteration} on {after}, before {before}; {effect}; the result will differ"
