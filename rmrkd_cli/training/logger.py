"""The log of a run: `log.jsonl`, its trackers, and the status on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmrkd_cli.terminal.live_display import LiveDisplay
from rmrkd_cli.terminal.training_status import TrainingStatus
from rmrkd_cli.training.budget import Budget
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.run_directory import RunDir
from rmrkd_cli.training.trackers.base import Image
from rmrkd_cli.training.trackers.group import Trackers


class TrainingLogger:
    """Logs a run on rank 0; on other ranks every call does nothing.

    Args:
        role: Title of the status.
        budget, progress: Only read.
        trackers: Open, and closed by the caller.

    Attributes:
        line_count: Lines in `log.jsonl`.
    """

    def __init__(
        self,
        run_dir: RunDir,
        terminal: LiveDisplay,
        role: str,
        budget: Budget,
        progress: Progress,
        trackers: Trackers,
    ) -> None:
        self._run_dir, self._terminal, self._role = run_dir, terminal, role
        self._budget, self._progress, self._trackers = budget, progress, trackers
        self.line_count = progress.log_lines
        self._status = TrainingStatus(role)
        if progress.best_iteration:
            self._status.best = progress.best_miou, progress.best_iteration
        self._training_progress = terminal.training_progress(self._status)
        self._validation_seconds: float | None = None
        self._writes = not terminal.quiet
        self.update_status()

    def update_status(self) -> None:
        """Show the progress on the terminal; call it after each step."""
        if self._training_progress is None:
            return
        budget, seconds = self._budget, self._validation_seconds
        left = budget.seconds_left + budget.validations_left * (seconds or 0.0)
        unknown = seconds is None and budget.validations_left > 0
        if budget.step_seconds:
            done, position = budget.fraction_done, budget.progress_text
            self._status.update(done, position, budget.step_seconds, left, evaluation_time_unknown=unknown)
        else:
            self._status.fraction_done, self._status.position = budget.fraction_done, budget.progress_text
        self._training_progress.update()

    def log_step(
        self,
        *,
        lr: float,
        losses: Mapping[str, float],
        weights: Mapping[str, float],
        gradient_norm: float | None,
        part_norms: Mapping[str, float],
        **cost: float,
    ) -> None:
        """Log a step: each loss unweighted and weighted, and what the step cost.

        Args:
            gradient_norm: Norm of all gradients before clipping; None under fp16.
            part_norms: The same for each part of the networks.
            cost: `seconds` and `data_seconds` of a step, `elapsed` seconds of training, `peak_memory` in bytes.
        """
        if not self._writes:
            return
        iteration = self._progress.iteration
        weighted = {name: value * weights[name] for name, value in losses.items()}
        total = sum(weighted.values())
        line = {"iter": iteration, "lr": lr, "losses": dict(losses), "weighted": weighted, "total": total}
        self._append({**line, "gradient_norm": gradient_norm, **cost})
        scalars = {f"loss/{name}": value for name, value in losses.items()}
        scalars |= {f"weighted/{name}": value for name, value in weighted.items()}
        scalars |= {f"gradient_norm/{name}": value for name, value in part_norms.items()}
        if gradient_norm is not None:
            scalars["gradient_norm/total"] = gradient_norm
        scalars |= {
            "weighted/total": total,
            "lr": lr,
            "seconds_per_step": cost["seconds"],
            "data_seconds_per_step": cost["data_seconds"],
        }
        self._trackers.log_step(scalars, iteration)
        self._status.add_losses(weighted)

    def log_validation(self, miou: float, class_iou: Mapping[str, float], seconds: float) -> None:
        """Log a validation. The progress already contains the best mIoU.

        Args:
            miou, class_iou: 0..1; NaN for a class that does not occur.
            seconds: How long it took.
        """
        self._validation_seconds = seconds
        if not self._writes:
            return
        iteration, best = self._progress.iteration, self._progress.best_miou
        if self._progress.best_iteration:
            self._status.best = best, self._progress.best_iteration
        self.update_status()
        percent = {name: 100 * value for name, value in class_iou.items() if not math.isnan(value)}
        self._trackers.log_validation({"mIoU": 100 * miou, "best mIoU": 100 * best}, percent, iteration)
        self._append({"iter": iteration, "val_miou": miou, "best_miou": best, "elapsed": self._progress.seconds})
        mark = " (best)" if miou >= best else ""
        self._terminal.log(f"{self._role} iteration {iteration}: mIoU {100 * miou:.2f}{mark}")

    def log_images(self, images: Mapping[str, Image]) -> None:
        """Log images (H, W, 3) of a validation."""
        self._trackers.log_images(images, self._progress.iteration)

    def log_result(self, scalars: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the metrics of the result, and the files that a finished run leaves."""
        self._trackers.log_result(scalars, files, self._progress.iteration)

    def log_skipped_step(self, iteration: int, reason: str) -> None:
        """Log a step without an update."""
        if not self._writes:
            return
        self._append({"iter": iteration, "skipped": reason})
        self._terminal.log(f"{reason}: the update of this step is skipped")

    def log_corrupt_images(self, iteration: int, messages: Sequence[str], new: Sequence[str]) -> None:
        """Log unreadable training images; print the new ones."""
        if not self._writes:
            return
        self._append({"iter": iteration, "left_out": list(messages)})
        for message in new:
            self._terminal.log(f"unreadable, replaced by the next image: {message}")

    def flush(self) -> None:
        """Write everything to the trackers' files; call it before a checkpoint is saved."""
        self._trackers.flush()

    def close(self) -> None:
        """Close the status, and write everything to the trackers' files."""
        if self._training_progress is not None:
            self._training_progress.close()
        self._trackers.flush()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._run_dir.append_log(line)
        self.line_count += 1
