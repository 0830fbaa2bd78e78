"""Train a run further than its first length: whether its settings permit it, and what changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rmrkd_cli.presets.schema import Preset, Schedule
from rmrkd_cli.terminal.durations import format_duration
from rmrkd_cli.training.learning_rate import learning_rate
from rmrkd_cli.training.progress import Progress

LENGTH_KEYS = ("schedule.iters", "schedule.time_budget", "teacher.schedule.iters", "teacher.schedule.time_budget")


def saved_schedule(preset: object, role: str) -> Schedule | None:
    """Return the schedule of a role in a preset that a run has saved; None for one that cannot be read."""
    try:
        return Preset.model_validate(preset).schedule_for(role)
    except ValidationError:
        return None


def is_extension(before: Schedule, now: Schedule) -> bool:
    """Return whether a schedule is at least as long as another, in the same unit."""
    if before.time_budget is None or now.time_budget is None:
        return before.time_budget is now.time_budget and now.iters >= before.iters
    return now.iters == before.iters and now.time_budget >= before.time_budget


def describe_length(schedule: Schedule) -> str:
    """Return the length of a schedule, as `300 iterations`."""
    return f"{schedule.iters} iterations" if schedule.time_budget is None else format_duration(schedule.time_budget)


def reaches(training: Mapping[str, Any], schedule: Schedule) -> bool:
    """Return whether a finished run is as long as a schedule.

    Args:
        training: The entry of its result record.
    """
    done, goal = training.get("iterations"), float(schedule.iters)
    if schedule.time_budget is not None:
        done, goal = training.get("time_budget"), schedule.time_budget
    return not isinstance(done, (int, float)) or done >= goal


def extend(progress: Progress, before: Schedule, now: Schedule) -> str:
    """Record in the progress that a run is trained further, and return what this means; "" if it is not.

    The learning rate follows the polynomial of the new length from here on, as if that length had been chosen at the
    start. So it rises again, and each later step depends on the new schedule alone.
    """
    if now.time_budget is not None and before.time_budget is not None:
        if now.time_budget == before.time_budget:
            return ""
        change: dict[str, Any] = {"time_budget": [before.time_budget, now.time_budget]}
        ratio = before.time_budget / now.time_budget
        position = min(1.0, progress.seconds / now.time_budget) * now.iters
        progress.over, progress.evaluated_at = False, progress.evaluated_at * ratio
        old_position = min(1.0, progress.seconds / before.time_budget) * before.iters
    else:
        if now.iters == before.iters:
            return ""
        change = {"iters": [before.iters, now.iters]}
        position, old_position = float(progress.iteration), float(progress.iteration)
    progress.changes.append({"iteration": progress.iteration, **change})
    lengths = [describe_length(before), describe_length(now)]
    rates = [learning_rate(before, min(old_position, before.iters)), learning_rate(now, position)]
    return (
        f"trained further at iteration {progress.iteration}: {lengths[1]} in all, before {lengths[0]}; the learning "
        f"rate follows the schedule of {lengths[1]} from here on ({rates[1]:.3g} instead of {rates[0]:.3g}); the "
        "result will differ from that of a run of this length"
    )
