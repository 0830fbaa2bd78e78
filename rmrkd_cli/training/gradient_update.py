"""The update of a step: move the weights, unless a loss or gradient is infinite or NaN on any worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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
    name_nonfinite,
    nonfinite_error,
    overflow_error,
    save_for_replay,
    stack_numbers,
)
from rmrkd_cli.training.optimizer_step import TrainStep
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.setup import TrainingSetup


@dataclass
class _UnreadStep:
    """A step whose update the device applies or skips by itself; the host reads later which of both.

    Attributes:
        numbers: On the way to the host: losses, gradient norms, 1 if all of them are finite on all workers, else 0,
            and under fp16 the loss scale before and after.
        copied: The event after that copy; None on a CPU.
    """

    iteration: int
    batches: Sequence[Batch]
    losses: list[str]
    numbers: Tensor
    copied: torch.cuda.Event | None
    scales: int

    def read(self) -> tuple[dict[str, float], bool, bool]:
        """Return this worker's nonfinite numbers, whether the update was skipped, and whether fp16 overflowed."""
        if self.copied is not None:
            self.copied.synchronize()
        values = self.numbers.tolist()
        scales = values[len(values) - self.scales :]
        *numbers, finite = values[: len(values) - self.scales]
        return name_nonfinite(self.losses, numbers), not finite, bool(scales) and scales[1] < scales[0]


class GradientUpdate:
    """Applies or skips the update of each step, alike on all workers.

    On a GPU the device itself skips an update, and the host reads the outcome one step later, so that it never waits
    for the step that is running. Call `finish_step` before anything that needs the outcome of the last step.

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
        self._unread: _UnreadStep | None = None

    def step(self, losses: dict[str, Tensor], batches: Sequence[Batch], stop: StopRequest) -> int:
        """Move the weights, unless a number is infinite or NaN on any worker.

        Args:
            losses: Of this worker's batches.

        Returns:
            The signal that any worker received, 0 for none, so that all workers stop after the same step.

        Raises:
            RunError: When the numbers are not finite and the step must not be skipped, or too many were skipped. On a
                GPU the error of a step comes with the next step, or from `finish_step`.
        """
        iteration = self.progress.iteration + 1
        self.gradient_norm = self.train_step.clip_gradients()
        if self.train_step.asynchronous:
            self.finish_step()  # the one before
            _, signum = self._synchronize(False, batches, stop, iteration)
            self._unread = self._enqueue(losses, batches, iteration)
            return signum
        nonfinite = find_nonfinite(losses, self.gradient_norm, self.train_step.discriminator_grad_norm)
        any_nonfinite, signum = self._synchronize(bool(nonfinite), batches, stop, iteration)
        if any_nonfinite:
            self._skip(nonfinite, batches, iteration)
            self.train_step.rollback()
        else:
            self._count_overflows(not self.train_step.update_weights(), iteration)
        return signum

    def finish_step(self) -> None:
        """Wait for the last step, and count, log or report a skipped update; does nothing if that is done already.

        Raises:
            RunError: As `step`.
        """
        unread, self._unread = self._unread, None
        if unread is None:
            return
        nonfinite, skipped, overflowed = unread.read()
        if skipped:
            self._skip(nonfinite, unread.batches, unread.iteration)
        else:
            self._count_overflows(overflowed, unread.iteration)

    def _enqueue(self, losses: dict[str, Tensor], batches: Sequence[Batch], iteration: int) -> _UnreadStep:
        """Let the device apply or skip the update; return without waiting for it."""
        numbers = stack_numbers(losses, self.gradient_norm, self.train_step.discriminator_grad_norm)
        nonfinite = (~numbers.isfinite()).any().float()
        nonfinite = self.dist_ctx.all_reduce_sum(nonfinite).clamp_max(1.0)
        scales = self.train_step.update_unless(nonfinite)
        on_device = torch.cat([numbers, torch.stack([1.0 - nonfinite, *(scale.squeeze() for scale in scales)])])
        on_host = on_device.to("cpu", non_blocking=True)
        copied = None
        if on_device.device.type == "cuda":
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        return _UnreadStep(iteration, batches, list(losses), on_host, copied, len(scales))

    def _synchronize(
        self, nonfinite: bool, batches: Sequence[Batch], stop: StopRequest, iteration: int
    ) -> tuple[bool, int]:
        """Return whether a number is nonfinite on any worker, and the signal that any worker received.

        One all_reduce carries four values: nonfinite numbers, signal, corrupt images and clock.
        """
        corrupt = [message for batch in batches for message in batch.skipped]
        any_nonfinite, signum, any_corrupt, clock = self.dist_ctx.all_reduce_max(
            nonfinite, stop.signum, len(corrupt), self.budget.local_clock(self.dist_ctx.is_rank0)
        )
        self.budget.synchronize(clock)
        if any_corrupt:
            self._record_corrupt_images(corrupt, iteration)
        return bool(any_nonfinite), signum

    def _count_overflows(self, overflowed: bool, iteration: int) -> None:
        """Count steps in a row that fp16's gradient scaler skipped.

        Raises:
            RunError: When too many steps in a row overflowed.
        """
        progress = self.progress
        progress.overflows_in_row = progress.overflows_in_row + 1 if overflowed else 0
        progress.skipped_in_row = 0
        if progress.overflows_in_row > MAX_OVERFLOWS_IN_ROW:
            raise overflow_error(progress.overflows_in_row, iteration)

    def _skip(self, nonfinite: dict[str, float], batches: Sequence[Batch], iteration: int) -> None:
        """Count and log a skipped update; save the batches of the first such step, and of the last one.

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
        self.logger.log_skipped_step(iteration, message)

    def _record_corrupt_images(self, messages: list[str], iteration: int) -> None:
        """Count the unreadable images of all workers, and print each file once."""
        progress = self.progress
        gathered = [message for of_worker in self.dist_ctx.all_gather(messages) for message in of_worker]
        new = [message for message in dict.fromkeys(gathered) if message not in progress.left_out_files]
        progress.left_out += len(gathered)
        progress.left_out_files += new
        self.logger.log_corrupt_images(iteration, gathered, new)
