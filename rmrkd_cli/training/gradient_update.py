"""The update of a step: move the weights, unless a loss or gradient is infinite or NaN on any worker."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.signals import StopRequest
from rmrkd_cli.training.budget import Budget
from rmrkd_cli.training.logger import TrainingLogger
from rmrkd_cli.training.nonfinite import (
    MAX_OVERFLOWS_IN_ROW,
    MAX_SKIPPED_IN_ROW,
    find_nonfinite,
    gather_nonfinite,
    nonfinite_error,
    overflow_error,
    save_for_replay,
)
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.setup import TrainingSetup


class GradientUpdate:
    """Applies or skips the update of each step, alike on all workers.

    Attributes:
        gradient_norm: Norm of all gradients in the last step; None under fp16.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        train_step: TrainStep,
        dist_ctx: DistContext,
        budget: Budget,
        progress: Progress,
        logger: TrainingLogger,
    ) -> None:
        self.train_step, self.dist_ctx, self.budget = train_step, dist_ctx, budget
        self.progress, self.logger = progress, logger
        self.samples = setup.train_samples
        self.skip_nonfinite = setup.schedule.skip_nonfinite
        self.replay_dir = setup.run_dir.path / "nonfinite"
        self.gradient_norm: Tensor | None = None

    def step(self, losses: dict[str, Tensor], batches: Sequence[Batch], stop: StopRequest) -> int:
        """Move the weights, unless a number is infinite or NaN on any worker.

        One all_reduce carries four values: nonfinite numbers, signal, corrupt images and clock.

        Args:
            losses: Of this worker's batches.

        Returns:
            The signal that any worker received, 0 for none, so that all workers stop after the same step.

        Raises:
            RunError: When the numbers are not finite and the step must not be skipped, or too many were skipped.
        """
        progress, iteration = self.progress, self.progress.iteration + 1
        self.gradient_norm = self.train_step.clip_gradients()
        nonfinite = find_nonfinite(losses, self.gradient_norm, self.train_step.discriminator_grad_norm)
        corrupt = [message for batch in batches for message in batch.skipped]
        any_nonfinite, signum, any_corrupt, clock = self.dist_ctx.all_reduce_max(
            bool(nonfinite), stop.signum, len(corrupt), self.budget.local_clock(self.dist_ctx.is_rank0)
        )
        self.budget.synchronize(clock)
        if any_corrupt:
            self._record_corrupt_images(corrupt, iteration)
        if any_nonfinite:
            self._skip(nonfinite, batches, iteration)
            return signum
        overflowed = not self.train_step.update_weights()
        progress.overflows_in_row = progress.overflows_in_row + 1 if overflowed else 0
        progress.skipped_in_row = 0
        if progress.overflows_in_row > MAX_OVERFLOWS_IN_ROW:
            raise overflow_error(progress.overflows_in_row, iteration)
        return signum

    def _skip(self, nonfinite: dict[str, float], batches: Sequence[Batch], iteration: int) -> None:
        """Skip the update on all workers; save the batches of the first such step, and of the last one.

        Raises:
            RunError: Without `--skip-nonfinite`, or when too many steps in a row were skipped.
        """
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_row += 1
        images = [str(self.samples[index].image) for batch in batches for index in batch.indices]
        message = gather_nonfinite(self.dist_ctx, nonfinite, images, iteration)
        give_up = not self.skip_nonfinite or progress.skipped_in_row >= MAX_SKIPPED_IN_ROW
        if nonfinite and (give_up or progress.skipped == 1):
            target = self.replay_dir / f"iter_{iteration}-rank{self.dist_ctx.rank}.pth"
            message += save_for_replay(target, batches, images, nonfinite, self.train_step.model.state_dict())
        self.dist_ctx.barrier()
        if give_up:
            raise nonfinite_error(message, progress.skipped_in_row if self.skip_nonfinite else 0)
        self.train_step.rollback()
        self.logger.log_skipped_step(iteration, message)

    def _record_corrupt_images(self, messages: list[str], iteration: int) -> None:
        """Count the unreadable images of all workers, and print each file once."""
        progress = self.progress
        gathered = [message for of_worker in self.dist_ctx.all_gather(messages) for message in of_worker]
        new = [message for message in dict.fromkeys(gathered) if message not in progress.left_out_files]
        progress.left_out += len(gathered)
        progress.left_out_files += new
        self.logger.log_corrupt_images(iteration, gathered, new)
