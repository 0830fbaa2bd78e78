"""The length of a run, in iterations or in time: what is due after a step, and when the run ends."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import TypeVar

from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.terminal.durations import format_duration
from rmrkd_cli.training.progress import Progress

T = TypeVar("T")
_AVERAGED_STEPS = 20
_MIN_LOG_LINES = 10  # of a run
MICROSECOND = 1e-6  # workers exchange times as integers


class Budget(ABC):
    """The clock of a run's training steps, and the decisions that follow from it.

    The clock of a step starts when its images are requested, and stops after its update and its log line. It does not
    run while the first images are read (loader processes start then), during validation, or while a checkpoint is
    written.

    Attributes:
        step_seconds: Mean length of the last steps; 0 before the first.
        last_step: Number of steps; None if it is not known in advance.
    """

    last_step: int | None

    def __init__(self, schedule: Schedule, progress: Progress) -> None:
        self.schedule, self.progress = schedule, progress
        self.step_seconds = 0.0
        self._last_reading, self._step_start = perf_counter(), progress.seconds
        self._lengths: deque[float] = deque(maxlen=_AVERAGED_STEPS)

    def steps(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches of each step until the run is finished."""
        if self.finished:
            return
        upcoming = next(batches)
        self._last_reading = perf_counter()
        while True:
            self._step_start = self.progress.seconds
            self.progress.data_seconds += perf_counter() - self._last_reading
            yield upcoming
            self._lengths.append(self.progress.seconds - self._step_start)
            self.step_seconds = statistics.fmean(self._lengths)
            if self.finished:
                return
            self._last_reading = perf_counter()
            upcoming = next(batches)

    def add_elapsed_time(self) -> None:
        """Add the time since the last call, or since the step's start, to the training time."""
        now = perf_counter()
        self.progress.seconds += now - self._last_reading
        self._last_reading = now

    @property
    @abstractmethod
    def position(self) -> float:
        """Position of the next step in the schedule, in iterations."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the last step was taken."""

    @property
    def log_due(self) -> bool:
        """Whether the interval has passed, which is shortened to a tenth of a short run, so that its curves show it."""
        interval = min(self.schedule.log_interval, max(1, self.schedule.iters // _MIN_LOG_LINES))
        return self.progress.iteration % interval == 0 or self.finished

    @property
    @abstractmethod
    def validation_due(self) -> bool: ...

    @property
    @abstractmethod
    def checkpoint_due(self) -> bool: ...

    @property
    def validation_pending(self) -> bool:
        """Whether a resumed run must validate first: it was stopped before or during a validation, or at its end."""
        progress = self.progress
        missing = progress.iteration > progress.evaluated or self.finished
        return progress.iteration > 0 and missing and self.validation_due

    @abstractmethod
    def local_clock(self, is_rank0: bool) -> int:
        """Return this worker's clock, for an all_reduce with MAX before `synchronize`."""

    @abstractmethod
    def synchronize(self, clock: int) -> None:
        """Set the clock of this step to the maximum of all workers."""

    def mark_validated(self) -> None:
        """Record that the validation of this iteration is done."""
        self.progress.evaluated = self.progress.iteration
        self.progress.evaluated_at = self.position

    @abstractmethod
    def mark_saved(self) -> None:
        """Record that a checkpoint of this iteration is written."""

    @property
    @abstractmethod
    def target_text(self) -> str:
        """Length of the whole run, as `300 iterations`."""

    @property
    @abstractmethod
    def progress_text(self) -> str:
        """Length so far, as `12/300`."""

    @abstractmethod
    def describe_position(self) -> str:
        """Return the length so far, as `iteration 12 of 300`."""

    @property
    def fraction_done(self) -> float:
        """0 to 1."""
        return self.position / self.schedule.iters

    @property
    @abstractmethod
    def seconds_left(self) -> float:
        """Estimated seconds of the training steps that are left."""

    @property
    def validations_left(self) -> int:
        interval = self.schedule.eval_interval
        return -(-self.schedule.iters // interval) - round(-(-self.progress.evaluated_at // interval))


class IterationBudget(Budget):
    """Trains for the schedule's number of iterations."""

    def __init__(self, schedule: Schedule, progress: Progress) -> None:
        super().__init__(schedule, progress)
        self.last_step = schedule.iters

    def local_clock(self, is_rank0: bool) -> int:
        return 0

    def synchronize(self, clock: int) -> None:
        pass

    def mark_saved(self) -> None:
        pass

    @property
    def position(self) -> float:
        return self.progress.iteration

    @property
    def finished(self) -> bool:
        return self.progress.iteration >= self.schedule.iters

    @property
    def validation_due(self) -> bool:
        return self.progress.iteration % self.schedule.eval_interval == 0 or self.finished

    @property
    def checkpoint_due(self) -> bool:
        return self.progress.iteration % self.schedule.checkpoint_interval == 0 or self.finished

    @property
    def target_text(self) -> str:
        return f"{self.schedule.iters} iterations"

    @property
    def progress_text(self) -> str:
        return f"{self.progress.iteration}/{self.schedule.iters}"

    def describe_position(self) -> str:
        return f"iteration {self.progress.iteration} of {self.schedule.iters}"

    @property
    def seconds_left(self) -> float:
        return (self.schedule.iters - self.progress.iteration) * self.step_seconds


class TimeBudget(Budget):
    """Trains for a time. The schedule's `iters` is then only the unit of its intervals and of the learning rate.

    The time is rank 0's, read in each step after the backward pass, so that all workers take the same steps. The run
    ends when one more step would end further from the budget than no step: at most half a step early.
    """

    last_step = None

    def __init__(self, schedule: Schedule, progress: Progress, budget: float) -> None:
        super().__init__(schedule, progress)
        self.budget = budget
        self._shared_clock = progress.seconds
        self._saved_at = self._position_before = self.position
        self._shared_lengths: deque[float] = deque(maxlen=_AVERAGED_STEPS)

    def local_clock(self, is_rank0: bool) -> int:
        now = self.progress.seconds + perf_counter() - self._last_reading
        return round(now / MICROSECOND) if is_rank0 else 0

    def synchronize(self, clock: int) -> None:
        now = clock * MICROSECOND
        self._shared_lengths.append(now - self._shared_clock)
        self._position_before = self.position
        self._shared_clock = now
        if self.budget - now <= statistics.median(self._shared_lengths) / 2:
            self.progress.over = True

    @property
    def position(self) -> float:
        return min(1.0, self._shared_clock / self.budget) * self.schedule.iters

    @property
    def finished(self) -> bool:
        return self.progress.over

    @property
    def log_due(self) -> bool:
        """Whether the interval has passed, or a tenth of the time."""
        due = self.progress.iteration % self.schedule.log_interval == 0
        return due or self._passed(self.schedule.iters / _MIN_LOG_LINES, self._position_before) or self.finished

    @property
    def validation_due(self) -> bool:
        return self.finished or self._passed(self.schedule.eval_interval, self.progress.evaluated_at)

    @property
    def checkpoint_due(self) -> bool:
        return self.finished or self._passed(self.schedule.checkpoint_interval, self._saved_at)

    def _passed(self, interval: float, since: float) -> bool:
        """Whether a multiple of the interval lies between a position and the current one."""
        return self.position // interval > since // interval

    def mark_saved(self) -> None:
        self._saved_at = self.position

    @property
    def target_text(self) -> str:
        return f"{format_duration(self.budget)} of steps"

    @property
    def progress_text(self) -> str:
        return f"{format_duration(round(self.fraction_done * self.budget))} of {format_duration(self.budget)}"

    def describe_position(self) -> str:
        done, budget = format_duration(self.progress.seconds), format_duration(self.budget)
        return f"iteration {self.progress.iteration}, {done} of {budget}"

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.budget - self._shared_clock)


def make_budget(schedule: Schedule, progress: Progress) -> Budget:
    """Return the budget of a schedule: its `time_budget` if it has one, else its `iters`."""
    if schedule.time_budget is not None:
        return TimeBudget(schedule, progress, schedule.time_budget)
    return IterationBudget(schedule, progress)
