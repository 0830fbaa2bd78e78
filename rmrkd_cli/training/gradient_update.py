"""What becomes of a step's gradients: the weights are moved, unless a number is wrong on any worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.signals import StopRequest
from rmrkd_cli.training.budget import Budget
from rmrkd_cli.training.logger import TrainingLogger
from rmrkd_cli.training.nonfinite import (
    MOST_IN_ROW,
    MOST_OVERFLOWS,
    gather_nonfinite,
    keep_for_replay,
    not_finite,
    overflow_error,
    run_error,
)
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress


class GradientUpdate:
    """The second half of every step, in which all workers agree on what happens.

    Args:
        samples: The training images, to be named.
        kept: Folder in which the batches of steps with wrong numbers are left.

    Attributes:
        norm: Of all gradients of the last step together; none under fp16.
    """

    def __init__(
        self, step: TrainStep, dist_ctx: DistContext, pace: Budget, progress: Progress, journal: TrainingLogger,
        samples: Sequence[Sample],
        kept: Path,
    ) -> None:  # fmt: skip
        self.step, self.dist_ctx, self.pace, self.progress, self.journal = step, dist_ctx, pace, progress, journal
        self.samples, self.kept = samples, kept
        self.norm: Tensor | None = None

    def apply(self, named: dict[str, Tensor], batches: list[Batch], stop: StopRequest) -> int:
        """Moves the weights, unless a number is wrong on any worker.

        Args:
            named: The losses of this worker's batches.

        Returns:
            The signal that any worker met, 0 for none: all of them stop after the same step.
        """
        self.norm = self.step.gradient_norm()
        wrong = not_finite(named, self.norm, self.step.discriminator_grad_norm)
        left_out = [message for batch in batches for message in batch.left_out]
        failed, stopped, lost, clock = self.dist_ctx.largest(
            bool(wrong), stop.signum, len(left_out), self.pace.told(self.dist_ctx.is_first)
        )
        self.pace.agree(clock)
        progress, number = self.progress, self.progress.iteration + 1
        if lost:
            self._leave_out(left_out, number)
        if failed:
            self._skip(wrong, batches, number)
            return stopped
        progress.overflows_in_row = 0 if self.step.update() else progress.overflows_in_row + 1
        progress.skipped_in_row = 0
        if progress.overflows_in_row > MOST_OVERFLOWS:
            raise overflow_error(progress.overflows_in_row, number)
        return stopped

    def _skip(self, wrong: dict[str, float], batches: list[Batch], number: int) -> None:
        """Leaves the update out, on all workers.

        Raises:
            RunError: Where that is not wanted, or was done too often in a row.
        """
        progress, wanted = self.progress, self.step.schedule.skip_nonfinite
        progress.skipped += 1
        progress.skipped_in_row += 1
        images = [str(self.samples[index].image) for batch in batches for index in batch.indices]
        told = gather_nonfinite(self.dist_ctx, wrong, images, number)
        give_up = not wanted or progress.skipped_in_row >= MOST_IN_ROW
        if wrong and (give_up or progress.skipped == 1):
            target = self.kept / f"iter_{number}-rank{self.dist_ctx.rank}.pth"
            told += keep_for_replay(target, batches, images, wrong, self.step.model.state_dict())
        self.dist_ctx.wait()
        if give_up:
            raise run_error(told, progress.skipped_in_row if wanted else 0)
        self.step.forget()
        self.journal.skipped(number, told)

    def _leave_out(self, left_out: list[str], number: int) -> None:
        """Counts the images in whose place others were seen on any worker, and names each once."""
        progress = self.progress
        everywhere = [message for told in self.dist_ctx.gather(left_out) for message in told]
        new = [message for message in dict.fromkeys(everywhere) if message not in progress.left_out_files]
        progress.left_out += len(everywhere)
        progress.left_out_files += new
        self.journal.left_out(number, everywhere, new)
