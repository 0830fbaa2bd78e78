"""Everything a run is, into its checkpoints and out of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rmrkd_cli.checkpoints.reader import Checkpoint, load_state_dict_checked, read_checkpoint
from rmrkd_cli.distillation.custom_loss import check_same_code
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.run_directory import RunDir

Say = Callable[[str], None]


class RunState:
    """Saved by the first worker, restored by all.

    Args:
        sources: Where the teacher's weights and losses of one's own come from, as the checkpoint's `meta.sources`.
    """

    def __init__(
        self,
        files: RunDir,
        model: Distiller,
        step: TrainStep,
        schedule: Schedule,
        dist_ctx: DistContext,
        sources: Mapping[str, Any],
    ) -> None:
        self.files, self.model, self.step, self.schedule, self.dist_ctx = files, model, step, schedule, dist_ctx
        self.teacher, self.code = sources.get("teacher"), sources.get("code", {})

    def save(self, progress: Progress, meta: dict[str, Any], *, best: bool) -> None:
        """Writes a checkpoint; every worker comes back from here when it is written.

        Args:
            best: It is the best so far.
        """
        if self.dist_ctx.is_first:
            self.files.sync_log()
            contents = {
                "meta": {**meta, **self.batches()},
                "state_dict": self.model.state_dict(),
                **self.step.state(),
                **progress.saved(),
            }
            self.files.checkpoints.save(contents, progress.iteration, best=best, keep=self.schedule.keep)
        self.dist_ctx.wait()

    def restore(self, say: Say, *, force: bool = False) -> Progress:
        """Goes back to the newest good checkpoint, or to the beginning where there is none.

        Args:
            force: Another number of workers or images a step is accepted, and said.

        Raises:
            RmrkdError: When it was written by another number of workers or batch size, or when not all workers see it.
        """
        found = self.dist_ctx.from_first(lambda: self._find(say))
        progress = Progress()
        if found is not None:
            if not self.dist_ctx.all(found.is_file()):
                raise RmrkdError(
                    f"`{found}` is seen by some workers and not by others",
                    "with several machines the run directory must be on storage they share",
                )
            saved = read_checkpoint(found, verified=True)
            self._check_teacher(saved)
            check_same_code(saved.meta, self.code, self.files.path)
            changed = self._changed(saved, force=force)
            progress = _progress(saved, self.schedule)
            load_state_dict_checked(self.model, saved.state, str(found))
            self._restore_step(saved)
            if changed:
                progress.changes.append({"iteration": progress.iteration, **changed})
                say(_what_changes(saved.meta, self.batches(), progress.iteration))
        if self.dist_ctx.is_first:
            self._tidy(found, progress, say)
            missing = self.files.checkpoints.missing_bytes(self.model.state_dict(), self.schedule.keep)
            if missing:
                say(
                    f"`{self.files.path}` lacks {missing / 1e9:.2f} GB of room for this run's checkpoints: it will "
                    "stop when the disk is full; --keep 1 needs less"
                )
        return progress

    def _restore_step(self, saved: Checkpoint) -> None:
        """The optimizer's momentum, which must be of these parameters."""
        try:
            self.step.restore(saved.rest)
            for parameter, state in self.step.optimizer.state.items():
                wrong = {key: tuple(value.shape) for key, value in state.items() if value is not None}
                if any(shape != tuple(parameter.shape) for shape in wrong.values()):
                    raise ValueError(f"momentum of the shape {wrong} for a parameter of {tuple(parameter.shape)}")
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise _unusable(saved.path, f"its optimizer's state does not fit: {error}") from error

    def _find(self, say: Say) -> Path | None:
        self.files.checkpoints.delete_partial()
        return self.files.checkpoints.latest_valid(say)

    def _tidy(self, found: Path | None, progress: Progress, say: Say) -> None:
        """Leaves of the directory what belongs to the checkpoint."""
        lines = self.files.cut_log(progress.log_lines)
        if lines < progress.log_lines:
            say(f"`{self.files.log}` has lost {progress.log_lines - lines} of {progress.log_lines} lines")
            progress.log_lines = lines
        if found is not None:
            self.files.checkpoints.repair_links(found, progress.best_iteration, say)

    def batches(self) -> dict[str, int]:
        """What decides which images a step sees, and in which groups."""
        schedule = self.schedule
        return {
            "world_size": self.dist_ctx.size,
            "batch_size": schedule.batch_size,
            "accumulate": schedule.accumulate,
        }

    def _check_teacher(self, saved: Checkpoint) -> None:
        sources = saved.meta.get("sources")
        before, now = (
            told.get("sha256") if isinstance(told, dict) else None
            for told in (sources.get("teacher") if isinstance(sources, dict) else None, self.teacher)
        )
        if before != now:
            raise RmrkdError(
                f"`{self.files.path}` was taught by a teacher whose file has the SHA-256 {str(before)[:12]}…, "
                f"now it is {str(now)[:12]}…",
                "give the same file with --teacher-checkpoint, or --fresh to start again",
            )

    def _changed(self, saved: Checkpoint, *, force: bool) -> dict[str, Any]:
        """What differs, as name → (before, now); refused unless forced."""
        now = self.batches()
        changed = {name: [saved.meta.get(name), value] for name, value in now.items() if saved.meta.get(name) != value}
        if changed and not force:
            meta = saved.meta
            raise RmrkdError(
                f"`{self.files.path}` was trained by {meta.get('world_size')} worker(s) of {meta.get('batch_size')} "
                f"images, and is resumed by {now['world_size']} of {now['batch_size']}: it would see other batches",
                f"--gpus {meta.get('world_size')} --batch-size {meta.get('batch_size')}, or --force to go on all the "
                "same",
            )
        return changed


def _progress(saved: Checkpoint, schedule: Schedule) -> Progress:
    """Where a checkpoint says the run stood, if that can be."""
    try:
        progress = TypeAdapter(Progress).validate_python(Progress.restored(saved.rest).saved())
    except ValidationError as error:
        told = "; ".join(f"`{problem['loc'][0]}`: {problem['msg']}" for problem in error.errors(include_url=False))
        raise _unusable(saved.path, told) from error
    most = math.inf if schedule.time_budget is not None else schedule.iters
    if not 0 <= progress.iteration <= most or not 0 <= progress.evaluated <= progress.iteration:
        raise _unusable(saved.path, f"it stands at iteration {progress.iteration} of {schedule.iters}")
    if not (0 <= progress.seconds < math.inf and 0 <= progress.evaluated_at <= schedule.iters):
        raise _unusable(saved.path, f"it says that it was trained for {progress.seconds} seconds")
    return progress


def _unusable(path: Path, why: str) -> RmrkdError:
    return RmrkdError(f"no run can be resumed from `{path}`: {why}", "--fresh moves the run aside and starts again")


def _what_changes(meta: dict[str, Any], now: dict[str, int], iteration: int) -> str:
    """What `--force` means for this run."""
    names = ("world_size", "batch_size", "accumulate")
    if any(not isinstance(meta.get(name), int) for name in names):
        return f"from iteration {iteration} on: {now['world_size']} worker(s) of {now['batch_size']} images"
    old, new = ([told[name] for name in names] for told in (meta, now))
    before, after = (f"{w} worker(s) x {b} images x {a} pass(es)" for w, b, a in (old, new))
    images = [w * b * a for w, b, a in (old, new)]
    if images[0] == images[1]:
        effect = f"a step sees the same {images[0]} images, in other groups for batch norm and for the random mask"
    else:
        effect = (
            f"a step sees {images[1]} images in place of {images[0]} at the same learning rate, and the order of "
            "images goes on elsewhere, so that some are seen again and some left out"
        )
    return f"forced, from iteration {iteration} on: {after}, before {before}; {effect}; the end is another one"
