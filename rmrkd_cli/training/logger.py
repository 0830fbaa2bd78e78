"""The log of a run: `log.jsonl`, TensorBoard, and the status on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.terminal.live_display import LiveDisplay
from rmrkd_cli.terminal.training_status import TrainingStatus
from rmrkd_cli.training.budget import Budget
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.run_directory import RunDir


class TrainingLogger:
    """Logs a run on rank 0; on other ranks every call does nothing.

    Args:
        role: Title of the status.
        budget, progress: Only read.

    Attributes:
        line_count: Lines in `log.jsonl`.
    """

    def __init__(self, run_dir: RunDir, terminal: LiveDisplay, role: str, budget: Budget, progress: Progress) -> None:
        self._run_dir, self._terminal, self._role = run_dir, terminal, role
        self._budget, self._progress = budget, progress
        self.line_count = progress.log_lines
        self._status = TrainingStatus(role)
        if progress.best_iteration:
            self._status.best = progress.best_miou, progress.best_iteration
        self._training_progress = terminal.training_progress(self._status)
        self._validation_seconds: float | None = None
        self._writer = None
        self.update_status()
        if not terminal.quiet:
            from torch.utils.tensorboard import SummaryWriter

            done = progress.iteration
            self._writer = SummaryWriter(str(run_dir.path / "tensorboard"), purge_step=done + 1 if done else None)

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
        if self._writer is None:
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
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, iteration)
        self._status.add_losses(weighted)

    def log_validation(self, miou: float, seconds: float) -> None:
        """Log a validation: its mIoU (0..1), and how long it took. The progress already contains the best mIoU."""
        self._validation_seconds = seconds
        if self._writer is None:
            return
        iteration, best = self._progress.iteration, self._progress.best_miou
        if self._progress.best_iteration:
            self._status.best = best, self._progress.best_iteration
        self.update_status()
        self._writer.add_scalar("mIoU", 100 * miou, iteration)
        self._writer.add_scalar("best mIoU", 100 * best, iteration)
        self._append({"iter": iteration, "val_miou": miou, "best_miou": best, "elapsed": self._progress.seconds})
        mark = " (best)" if miou >= best else ""
        self._terminal.log(f"{self._role} iteration {iteration}: mIoU {100 * miou:.2f}{mark}")

    def log_images(self, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Log images (H, W, 3) of a validation to TensorBoard."""
        if self._writer is None:
            return
        for name, image in images.items():
            self._writer.add_image(f"validation/{name}", image, self._progress.iteration, dataformats="HWC")

    def log_skipped_step(self, iteration: int, reason: str) -> None:
        """Log a step without an update."""
        if self._writer is None:
            return
        self._append({"iter": iteration, "skipped": reason})
        self._terminal.log(f"{reason}: the update of this step is skipped")

    def log_corrupt_images(self, iteration: int, messages: Sequence[str], new: Sequence[str]) -> None:
        """Log unreadable training images; print the new ones."""
        if self._writer is None:
            return
        self._append({"iter": iteration, "left_out": list(messages)})
        for message in new:
            self._terminal.log(f"unreadable, replaced by the next image: {message}")

    def flush(self) -> None:
        """Write everything to TensorBoard's file; call it before a checkpoint is saved."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the status and TensorBoard's file."""
        if self._training_progress is not None:
            self._training_progress.close()
        if self._writer is not None:
            self._writer.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._run_dir.append_log(line)
        self.line_count += 1
