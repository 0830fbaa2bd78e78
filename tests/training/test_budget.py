"""Runs bounded by time, on a clock that the tests turn."""

from __future__ import annotations

from itertools import count

import pytest

from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training import budget as pace_module
from rmrkd_cli.training.budget import Budget, make_budget
from rmrkd_cli.training.optimizer_step import poly_lr
from rmrkd_cli.training.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace_module, "perf_counter", made)
    return made


def walk(pace: Budget, clock: Clock, length: float, *, evaluation: float = 0.0, most: int = 10_000) -> dict[str, list]:
    """Steps of so many seconds; what was met on the way."""
    met: dict[str, list] = {"rate": [], "evaluated": [], "saved": []}
    for _ in pace.steps(iter(range(most))):
        met["rate"].append(poly_lr(pace.schedule, pace.position))
        clock.now += length
        pace.agree(pace.told(True))
        pace.progress.iteration += 1
        pace.count()
        if pace.evaluation_due:
            clock.now += evaluation
            pace.evaluated()
            met["evaluated"].append(pace.progress.seconds)
        if pace.checkpoint_due:
            pace.saved()
            met["saved"].append(pace.progress.seconds)
        if pace.progress.iteration == most:
            break
    return met


@pytest.mark.parametrize("length", [0.001, 0.3, 0.7, 3.0, 4.1, 7.0, 9.0, 100.0])
def test_a_run_ends_within_half_a_step_of_its_time(clock: Clock, length: float) -> None:
    progress = Progress()
    walk(make_budget(Schedule(time_budget=10.0), progress), clock, length, evaluation=1.7)
    assert progress.over
    assert progress.iteration >= 1
    if length < 10:
        assert abs(progress.seconds - 10.0) <= length / 2 + 1e-5


def test_the_whole_schedule_is_seen_in_whatever_number_of_steps(clock: Clock) -> None:
    schedule = Schedule(iters=300, eval_interval=100, checkpoint_interval=30, time_budget=60.0)
    for length in (0.05, 0.4):
        progress = Progress()
        pace = make_budget(schedule, progress)
        met = walk(pace, clock, length, evaluation=5.0)
        assert met["rate"][0] == schedule.lr
        assert met["rate"][-1] < poly_lr(schedule, 295)
        assert met["rate"] == sorted(met["rate"], reverse=True)
        assert [round(seconds) for seconds in met["evaluated"]] == [20, 40, 60]
        assert [round(seconds) for seconds in met["saved"]] == [6 * part for part in range(1, 11)]
        assert pace.evaluations_left == 0


def test_evaluations_and_the_first_images_take_none_of_the_time(clock: Clock) -> None:
    progress = Progress()
    pace = make_budget(Schedule(iters=10, time_budget=5.0, eval_interval=2), progress)

    def images() -> object:
        clock.now += 50.0  # processes are started
        yield from count()

    steps = pace.steps(images())
    for _ in steps:
        clock.now += 1.0
        pace.agree(pace.told(True))
        progress.iteration += 1
        pace.count()
        clock.now += 30.0  # an evaluation
        pace.evaluated()
    assert progress.iteration == 5
    assert progress.seconds == pytest.approx(5.0)


def test_waiting_for_images_counts(clock: Clock) -> None:
    progress = Progress()
    pace = make_budget(Schedule(time_budget=10.0), progress)

    def images() -> object:
        for number in count():
            clock.now += 1.0
            yield number

    for _ in pace.steps(images()):
        clock.now += 1.0
        pace.agree(pace.told(True))
        progress.iteration += 1
        pace.count()
    assert progress.iteration == 5  # the first images are not waited for
    assert progress.data_seconds == pytest.approx(4.0)


def test_two_methods_of_unequal_steps_take_the_same_time(clock: Clock) -> None:
    taken = []
    for length in (0.065, 0.146):
        progress = Progress()
        walk(make_budget(Schedule(time_budget=20.0), progress), clock, length)
        taken.append(progress.seconds)
    assert abs(taken[0] - taken[1]) < 0.146


@pytest.mark.parametrize("stopped_after", [1, 24, 49, 50, 51, 99])
def test_a_run_that_is_stopped_goes_on_with_the_time_it_had(clock: Clock, stopped_after: int) -> None:
    schedule = Schedule(iters=100, eval_interval=25, time_budget=10.0)
    progress = Progress()
    first = walk(make_budget(schedule, progress), clock, 0.1, most=stopped_after)
    again = Progress.restored(progress.saved())
    clock.now += 1e6
    pace = make_budget(schedule, again)
    owed = pace.evaluation_owed
    second = walk(pace, clock, 0.1)
    assert again.seconds == pytest.approx(10.0, abs=0.051)
    assert again.iteration in range(98, 103)
    evaluated = [round(seconds / 2.5) for seconds in first["evaluated"] + second["evaluated"]]
    assert evaluated == [1, 2, 3, 4]
    assert not owed


def test_an_evaluation_that_a_stop_cut_short_is_owed(clock: Clock) -> None:
    progress = Progress()
    pace = make_budget(Schedule(iters=10, eval_interval=5, time_budget=10.0), progress)
    for _ in pace.steps(iter(range(100))):
        clock.now += 1.0
        pace.agree(pace.told(True))
        progress.iteration += 1
        pace.count()
        if pace.evaluation_due:
            break
    assert progress.iteration == 5
    again = make_budget(pace.schedule, Progress.restored(progress.saved()))
    assert again.evaluation_owed
    again.evaluated()
    assert not again.evaluation_owed


def test_all_workers_follow_the_first_ones_clock(clock: Clock) -> None:
    paces = [make_budget(Schedule(time_budget=10.0), Progress()) for _ in range(2)]
    streams = [pace.steps(iter(range(100))) for pace in paces]
    while not paces[0].ended:
        for stream, pace in zip(streams, paces, strict=True):
            next(stream)
            pace.count()
        clock.now += 1.0
        told = [pace.told(rank == 0) for rank, pace in enumerate(paces)]
        assert told[1] == 0
        paces[1].progress.seconds += 0.3  # its own is wrong
        for pace in paces:
            pace.agree(max(told))
            pace.progress.iteration += 1
            pace.count()
        assert paces[0].position == paces[1].position
    assert paces[1].ended
    assert paces[0].progress.iteration == 10


def test_iterations_are_counted_as_ever(clock: Clock) -> None:
    schedule = Schedule(iters=7, eval_interval=3, checkpoint_interval=2)
    progress = Progress()
    pace = make_budget(schedule, progress)
    met = walk(pace, clock, 1.0)
    assert progress.iteration == 7
    assert met["rate"] == [poly_lr(schedule, step) for step in range(7)]
    assert met["evaluated"] == [3, 6, 7]
    assert met["saved"] == [2, 4, 6, 7]
    assert (pace.last_step, pace.reached, pace.share, pace.evaluations_left) == (7, "7/7", 1.0, 0)
