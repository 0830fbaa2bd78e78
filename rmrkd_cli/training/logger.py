"""What a run tells while it goes: `log.jsonl`, TensorBoard, and its course on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.terminal.console import Screen
from rmrkd_cli.terminal.training_status import TrainingStatus
from rmrkd_cli.training.budget import Budget
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.run_directory import RunDir


class TrainingLogger:
    """Written by the first worker only; on the others every call is silent.

    Args:
        role: Title of the course.
        pace, progress: Where the run stands; only read.
    """

    def __init__(self, files: RunDir, shown: Screen, role: str, pace: Budget, progress: Progress) -> None:
        self._files, self._shown, self._role, self._pace, self._progress = files, shown, role, pace, progress
        self.lines = progress.log_lines
        self._course = TrainingStatus(role)
        if progress.best_iteration:
            self._course.best = progress.best_miou, progress.best_iteration
        self._meter = shown.course(self._course)
        self._evaluation_seconds: float | None = None
        self._writer = None
        self.tick()
        if not shown.quiet:
            from torch.utils.tensorboard import SummaryWriter

            done = progress.iteration
            self._writer = SummaryWriter(str(files.path / "tensorboard"), purge_step=done + 1 if done else None)

    def tick(self) -> None:
        """A step was taken."""
        if self._meter is None:
            return
        pace, evaluation = self._pace, self._evaluation_seconds
        left = pace.seconds_left + pace.evaluations_left * (evaluation or 0.0)
        unknown = evaluation is None and pace.evaluations_left > 0
        if pace.step_seconds:
            self._course.moved(pace.share, pace.reached, pace.step_seconds, left, unknown=unknown)
        else:
            self._course.share, self._course.reached = pace.share, pace.reached
        self._meter.update()

    def step(
        self,
        *,
        lr: float,
        losses: Mapping[str, float],
        weights: Mapping[str, float],
        norm: float | None,
        parts: Mapping[str, float],
        **cost: float,
    ) -> None:
        """A logged step: every loss raw and weighted, and what the step cost.

        Args:
            norm: Of all gradients together, before they were clipped; none under fp16.
            parts: The same of each part of the networks.
            cost: `seconds` and `data_seconds` a step, `elapsed` seconds of training so far, `peak_memory` in bytes.
        """
        if self._writer is None:
            return
        iteration = self._progress.iteration
        weighted = {name: value * weights[name] for name, value in losses.items()}
        line = {"iter": iteration, "lr": lr, "losses": dict(losses), "weighted": weighted}
        self._append({**line, "total": sum(weighted.values()), "gradient_norm": norm, **cost})
        scalars = {f"loss/{name}": value for name, value in losses.items()}
        scalars |= {f"weighted/{name}": value for name, value in weighted.items()}
        scalars |= {f"gradient_norm/{name}": value for name, value in parts.items()}
        if norm is not None:
            scalars["gradient_norm/total"] = norm
        scalars |= {"weighted/total": sum(weighted.values()), "lr": lr, "seconds_per_step": cost["seconds"]}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, iteration)
        self._course.logged(weighted)

    def validation(self, miou: float, seconds: float) -> None:
        """An evaluation's mIoU (0..1), and how long it took; the best so far is known."""
        self._evaluation_seconds = seconds
        if self._writer is None:
            return
        iteration, best = self._progress.iteration, self._progress.best_miou
        self._course.best = best, self._progress.best_iteration
        self.tick()
        self._writer.add_scalar("mIoU", 100 * miou, iteration)
        self._writer.add_scalar("best mIoU", 100 * best, iteration)
        self._append({"iter": iteration, "val_miou": miou, "best_miou": best, "elapsed": self._progress.seconds})
        mark = " (best)" if miou >= best else ""
        self._shown.say(f"{self._role} iteration {iteration}: mIoU {100 * miou:.2f}{mark}")

    def pictures(self, named: Mapping[str, NDArray[np.uint8]]) -> None:
        """What validation images look like, (H, W, 3), for TensorBoard alone."""
        if self._writer is None:
            return
        for name, picture in named.items():
            self._writer.add_image(f"validation/{name}", picture, self._progress.iteration, dataformats="HWC")

    def skipped(self, iteration: int, told: str) -> None:
        """A step whose update was left out, and why."""
        if self._writer is None:
            return
        self._append({"iter": iteration, "skipped": told})
        self._shown.say(f"{told}: this step's update is left out")

    def left_out(self, iteration: int, messages: Sequence[str], new: Sequence[str]) -> None:
        """Training images that could not be read; the new ones are told."""
        if self._writer is None:
            return
        self._append({"iter": iteration, "left_out": list(messages)})
        for message in new:
            self._shown.say(f"left out, the next image takes its place: {message}")

    def flush(self) -> None:
        """Before a checkpoint: nothing that it counts may still wait in memory."""
        if self._writer is not None:
            self._writer.flush()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._files.append_log(line)
        self.lines += 1

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()
        if self._writer is not None:
            self._writer.close()
