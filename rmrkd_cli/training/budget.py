"""How far a run is, what is due after a step, and when it ends: counted in iterations, or in time."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import TypeVar

from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.terminal.durations import duration
from rmrkd_cli.training.progress import Progress

T = TypeVar("T")
_RECENT = 20  # steps whose length tells that of the next
_MICRO = 1e-6  # seconds; workers agree on whole numbers


class Budget(ABC):
    """The clock of training steps, and what follows from it.

    The clock runs from the moment when a step's images are wanted to the end of its update and of its log line.
    It stands still until the first images are there (the processes that read them are started then), during
    evaluations, and while checkpoints are written.

    Attributes:
        step_seconds: Length of a step, the mean of the last ones; 0 before the first.
    """

    last_step: int | None  # none where it is not known

    def __init__(self, schedule: Schedule, progress: Progress) -> None:
        self.schedule, self.progress = schedule, progress
        self.step_seconds = 0.0
        self._mark, self._began = perf_counter(), progress.seconds
        self._lengths: deque[float] = deque(maxlen=_RECENT)

    def steps(self, images: Iterator[T]) -> Iterator[T]:
        """The images of each step, until the run has ended."""
        if self.ended:
            return
        upcoming = next(images)
        self._mark = perf_counter()
        while True:
            self._began = self.progress.seconds
            self.progress.data_seconds += perf_counter() - self._mark
            yield upcoming
            self._lengths.append(self.progress.seconds - self._began)
            self.step_seconds = statistics.fmean(self._lengths)
            if self.ended:
                return
            self._mark = perf_counter()
            upcoming = next(images)

    def count(self) -> None:
        """Adds what has passed in this step."""
        now = perf_counter()
        self.progress.seconds += now - self._mark
        self._mark = now

    @property
    @abstractmethod
    def position(self) -> float:
        """Where the next step stands in the schedule, in its iterations."""

    @property
    @abstractmethod
    def ended(self) -> bool: ...

    @property
    def log_due(self) -> bool:
        return self.progress.iteration % self.schedule.log_interval == 0 or self.ended

    @property
    @abstractmethod
    def evaluation_due(self) -> bool: ...

    @property
    @abstractmethod
    def checkpoint_due(self) -> bool: ...

    @property
    def evaluation_owed(self) -> bool:
        """A run stopped before or during an evaluation makes up for it; one stopped at the end needs its counts."""
        progress = self.progress
        owed = progress.iteration > progress.evaluated or self.ended
        return progress.iteration > 0 and owed and self.evaluation_due

    @abstractmethod
    def told(self, first: bool) -> int:
        """What this worker tells the others in each step; they agree on the largest."""

    @abstractmethod
    def agree(self, told: int) -> None:
        """What all workers told of this step."""

    def evaluated(self) -> None:
        """The evaluation that was due is logged."""
        self.progress.evaluated = self.progress.iteration
        self.progress.evaluated_at = self.position

    @abstractmethod
    def saved(self) -> None:
        """A checkpoint is written."""

    @property
    @abstractmethod
    def goal(self) -> str:
        """How much is trained in all, in words."""

    @property
    @abstractmethod
    def reached(self) -> str:
        """How much of it is done, as `12/300`."""

    @property
    @abstractmethod
    def stand(self) -> str:
        """The same in words, as `iteration 12`."""

    @property
    def share(self) -> float:
        """The part that is done, 0 to 1."""
        return self.position / self.schedule.iters

    @property
    @abstractmethod
    def seconds_left(self) -> float:
        """Of training steps."""

    @property
    def evaluations_left(self) -> int:
        interval = self.schedule.eval_interval
        return -(-self.schedule.iters // interval) - round(-(-self.progress.evaluated_at // interval))


class IterationBudget(Budget):
    """So many steps as the schedule names."""

    def __init__(self, schedule: Schedule, progress: Progress) -> None:
        super().__init__(schedule, progress)
        self.last_step = schedule.iters

    def told(self, first: bool) -> int:
        return 0

    def agree(self, told: int) -> None:
        pass

    def saved(self) -> None:
        pass

    @property
    def position(self) -> float:
        return self.progress.iteration

    @property
    def ended(self) -> bool:
        return self.progress.iteration >= self.schedule.iters

    @property
    def evaluation_due(self) -> bool:
        return self.progress.iteration % self.schedule.eval_interval == 0 or self.ended

    @property
    def checkpoint_due(self) -> bool:
        return self.progress.iteration % self.schedule.checkpoint_interval == 0 or self.ended

    @property
    def goal(self) -> str:
        return f"{self.schedule.iters} iterations"

    @property
    def reached(self) -> str:
        return f"{self.progress.iteration}/{self.schedule.iters}"

    @property
    def stand(self) -> str:
        return f"iteration {self.progress.iteration} of {self.schedule.iters}"

    @property
    def seconds_left(self) -> float:
        return (self.schedule.iters - self.progress.iteration) * self.step_seconds


class TimeBudget(Budget):
    """As many steps as fit into a time.

    The schedule's iterations are then only the whole that its intervals are parts of. Time is the first worker's, read
    in each step when its gradients are there, so that all workers take the same steps. The run ends where another step
    would be further from the budget than none: half of its length before, at most.
    """

    last_step = None

    def __init__(self, schedule: Schedule, progress: Progress, budget: float) -> None:
        super().__init__(schedule, progress)
        self.budget = budget
        self._agreed = progress.seconds
        self._saved_at = self.position
        self._agreed_lengths: deque[float] = deque(maxlen=_RECENT)

    def told(self, first: bool) -> int:
        return round((self.progress.seconds + perf_counter() - self._mark) / _MICRO) if first else 0

    def agree(self, told: int) -> None:
        now = told * _MICRO
        self._agreed_lengths.append(now - self._agreed)
        self._agreed = now
        if self.budget - now <= statistics.median(self._agreed_lengths) / 2:
            self.progress.over = True

    @property
    def position(self) -> float:
        return min(1.0, self._agreed / self.budget) * self.schedule.iters

    @property
    def ended(self) -> bool:
        return self.progress.over

    @property
    def evaluation_due(self) -> bool:
        return self.ended or self._passed(self.schedule.eval_interval, self.progress.evaluated_at)

    @property
    def checkpoint_due(self) -> bool:
        return self.ended or self._passed(self.schedule.checkpoint_interval, self._saved_at)

    def _passed(self, interval: int, since: float) -> bool:
        return self.position // interval > since // interval

    def saved(self) -> None:
        self._saved_at = self.position

    @property
    def goal(self) -> str:
        return f"{duration(self.budget)} of steps"

    @property
    def reached(self) -> str:
        return f"{duration(round(self.share * self.budget))} of {duration(self.budget)}"

    @property
    def stand(self) -> str:
        return f"iteration {self.progress.iteration}, {duration(self.progress.seconds)} of {duration(self.budget)}"

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.budget - self._agreed)


def make_budget(schedule: Schedule, progress: Progress) -> Budget:
    """The one that the schedule asks for."""
    if schedule.time_budget is not None:
        return TimeBudget(schedule, progress, schedule.time_budget)
    return IterationBudget(schedule, progress)
