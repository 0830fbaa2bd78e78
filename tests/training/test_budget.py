"""Iteration and time budgets, on a clock that the tests set."""

from __future__ import annotations

from itertools import count

import pytest

from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training import budget as budget_module
from rmrkd_cli.training.budget import Budget, make_budget
from rmrkd_cli.training.learning_rate import learning_rate
from rmrkd_cli.training.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(budget_module, "perf_counter", clock)
    return clock


def run_steps(
    budget: Budget, clock: Clock, length: float, *, validation: float = 0.0, most: int = 10_000
) -> dict[str, list]:
    """Run steps of `length` seconds; return the learning rates, and the times of validations and checkpoints."""
    record: dict[str, list] = {"rate": [], "validated": [], "saved": []}
    for _ in budget.steps(iter(range(most))):
        record["rate"].append(learning_rate(budget.schedule, budget.position))
        clock.now += length
        budget.synchronize(budget.local_clock(True))
        budget.progress.iteration += 1
        budget.add_elapsed_time()
        if budget.validation_due:
            clock.now += validation
            budget.mark_validated()
            record["validated"].append(budget.progress.seconds)
        if budget.checkpoint_due:
            budget.mark_saved()
            record["saved"].append(budget.progress.seconds)
        if budget.progress.iteration == most:
            break
    return record


@pytest.mark.parametrize("length", [0.001, 0.3, 0.7, 3.0, 4.1, 7.0, 9.0, 100.0])
def test_a_run_ends_within_half_a_step_of_its_time(clock: Clock, length: float) -> None:
    progress = Progress()
    run_steps(make_budget(Schedule(time_budget=10.0), progress), clock, length, validation=1.7)
    assert progress.over
    assert progress.iteration >= 1
    if length < 10:
        assert abs(progress.seconds - 10.0) <= length / 2 + 1e-5


def test_the_whole_schedule_is_covered_by_any_number_of_steps(clock: Clock) -> None:
    schedule = Schedule(iters=300, eval_interval=100, checkpoint_interval=30, time_budget=60.0)
    for length in (0.05, 0.4):
        progress = Progress()
        budget = make_budget(schedule, progress)
        record = run_steps(budget, clock, length, validation=5.0)
        assert record["rate"][0] == schedule.lr
        assert record["rate"][-1] < learning_rate(schedule, 295)
        assert record["rate"] == sorted(record["rate"], reverse=True)
        assert [round(seconds) for seconds in record["validated"]] == [20, 40, 60]
        assert [round(seconds) for seconds in record["saved"]] == [6 * part for part in range(1, 11)]
        assert budget.validations_left == 0


def test_validations_and_the_first_images_do_not_count(clock: Clock) -> None:
    progress = Progress()
    budget = make_budget(Schedule(iters=10, time_budget=5.0, eval_interval=2), progress)

    def images() -> object:
        clock.now += 50.0  # loader processes start
        yield from count()

    steps = budget.steps(images())
    for _ in steps:
        clock.now += 1.0
        budget.synchronize(budget.local_clock(True))
        progress.iteration += 1
        budget.add_elapsed_time()
        clock.now += 30.0  # a validation
        budget.mark_validated()
    assert progress.iteration == 5
    assert progress.seconds == pytest.approx(5.0)


def test_waiting_for_images_counts(clock: Clock) -> None:
    progress = Progress()
    budget = make_budget(Schedule(time_budget=10.0), progress)

    def images() -> object:
        for number in count():
            clock.now += 1.0
            yield number

    for _ in budget.steps(images()):
        clock.now += 1.0
        budget.synchronize(budget.local_clock(True))
        progress.iteration += 1
        budget.add_elapsed_time()
    assert progress.iteration == 5  # waiting for the first images does not count
    assert progress.data_seconds == pytest.approx(4.0)


def test_two_methods_of_unequal_steps_take_the_same_time(clock: Clock) -> None:
    seconds = []
    for length in (0.065, 0.146):
        progress = Progress()
        run_steps(make_budget(Schedule(time_budget=20.0), progress), clock, length)
        seconds.append(progress.seconds)
    assert abs(seconds[0] - seconds[1]) < 0.146


@pytest.mark.parametrize("stopped_after", [1, 24, 49, 50, 51, 99])
def test_a_resumed_run_has_the_remaining_time(clock: Clock, stopped_after: int) -> None:
    schedule = Schedule(iters=100, eval_interval=25, time_budget=10.0)
    progress = Progress()
    first = run_steps(make_budget(schedule, progress), clock, 0.1, most=stopped_after)
    again = Progress.from_dict(progress.to_dict())
    clock.now += 1e6
    budget = make_budget(schedule, again)
    pending = budget.validation_pending
    second = run_steps(budget, clock, 0.1)
    assert again.seconds == pytest.approx(10.0, abs=0.051)
    assert again.iteration in range(98, 103)
    validated = [round(seconds / 2.5) for seconds in first["validated"] + second["validated"]]
    assert validated == [1, 2, 3, 4]
    assert not pending


def test_a_validation_that_was_interrupted_is_pending(clock: Clock) -> None:
    progress = Progress()
    budget = make_budget(Schedule(iters=10, eval_interval=5, time_budget=10.0), progress)
    for _ in budget.steps(iter(range(100))):
        clock.now += 1.0
        budget.synchronize(budget.local_clock(True))
        progress.iteration += 1
        budget.add_elapsed_time()
        if budget.validation_due:
            break
    assert progress.iteration == 5
    again = make_budget(budget.schedule, Progress.from_dict(progress.to_dict()))
    assert again.validation_pending
    again.mark_validated()
    assert not again.validation_pending


def test_all_workers_follow_the_clock_of_rank_0(clock: Clock) -> None:
    budgets = [make_budget(Schedule(time_budget=10.0), Progress()) for _ in range(2)]
    streams = [budget.steps(iter(range(100))) for budget in budgets]
    while not budgets[0].finished:
        for stream, budget in zip(streams, budgets, strict=True):
            next(stream)
            budget.add_elapsed_time()
        clock.now += 1.0
        clocks = [budget.local_clock(rank == 0) for rank, budget in enumerate(budgets)]
        assert clocks[1] == 0
        budgets[1].progress.seconds += 0.3  # its own clock differs
        for budget in budgets:
            budget.synchronize(max(clocks))
            budget.progress.iteration += 1
            budget.add_elapsed_time()
        assert budgets[0].position == budgets[1].position
    assert budgets[1].finished
    assert budgets[0].progress.iteration == 10


def test_an_iteration_budget_counts_iterations(clock: Clock) -> None:
    schedule = Schedule(iters=7, eval_interval=3, checkpoint_interval=2)
    progress = Progress()
    budget = make_budget(schedule, progress)
    record = run_steps(budget, clock, 1.0)
    assert progress.iteration == 7
    assert record["rate"] == [learning_rate(schedule, step) for step in range(7)]
    assert record["validated"] == [3, 6, 7]
    assert record["saved"] == [2, 4, 6, 7]
    assert (budget.last_step, budget.progress_text, budget.fraction_done, budget.validations_left) == (7, "7/7", 1.0, 0)


@pytest.mark.parametrize(
    ("schedule", "logged"),
    [
        ({"iters": 20}, list(range(2, 21, 2))),
        ({"iters": 5}, [1, 2, 3, 4, 5]),
        ({"iters": 400}, list(range(40, 401, 40))),
        ({"iters": 500}, list(range(50, 501, 50))),
        ({"iters": 1000}, list(range(50, 1001, 50))),
        ({"iters": 300, "log_interval": 10}, list(range(10, 301, 10))),
        ({"iters": 1000, "time_budget": 20.0}, list(range(2, 21, 2))),
    ],
)
def test_a_short_run_logs_ten_lines(schedule: dict[str, float], logged: list[int], clock: Clock) -> None:
    budget = make_budget(Schedule(**schedule), Progress())
    due = []
    for _ in budget.steps(iter(range(2000))):
        clock.now += 1.0
        budget.synchronize(budget.local_clock(True))
        budget.progress.iteration += 1
        budget.add_elapsed_time()
        if budget.log_due:
            due.append(budget.progress.iteration)
    assert due == logged
