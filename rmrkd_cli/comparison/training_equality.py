"""In which respect trainings were equal: equal iterations and equal time are different claims."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rmrkd_cli.terminal.durations import format_duration
from rmrkd_cli.terminal.sanitize import escape_control

SAME_TIME = 0.03  # relative difference of training seconds that counts as none

Training = Mapping[str, Any]


def equality_of(trained: Sequence[tuple[str, Sequence[Training]]]) -> tuple[list[str], list[str]]:
    """What was equal, and what a reader must be warned of, a line each.

    Args:
        trained: Label of each group of students, and the `training` of each of its records; empty where unknown.
    """
    if len(trained) < 2:
        return [], []
    unknown = [label for label, runs in trained if not all(_known(run) for run in runs)]
    if unknown:
        return [], [f"how {', '.join(unknown)} {_was(unknown)} trained is not known: whether it was equal neither"]
    steps = {label: [(run["iterations"], _images(run)) for run in runs] for label, runs in trained}
    seconds = {label: [run["seconds"] for run in runs] for label, runs in trained}
    machines = {label: sorted({_machine(run) for run in runs}) for label, runs in trained}
    apart = len({machine for each in machines.values() for machine in each}) > 1
    same_steps = len({step for each in steps.values() for step in each}) == 1 and not any(
        run.get("changes") for _, runs in trained for run in runs
    )
    same_time = not apart and _same([value for each in seconds.values() for value in each])
    times = _times(seconds) + (f", {_machines(machines)}" if apart else "")
    if same_steps:
        iterations, images = next(iter(steps.values()))[0]
        told = f"equal iterations: {iterations} of {images}"
        return [f"{told}, and equal training time" if same_time else f"{told}; training time is not: {times}"], []
    shown = ", ".join(f"{label} {_range(each)}" for label, each in steps.items())
    if same_time:
        budgets = {run.get("time_budget") for _, runs in trained for run in runs}
        what = (
            "equal training time, as budgeted" if None not in budgets and len(budgets) == 1 else "equal training time"
        )
        shortest = min(min(each) for each in seconds.values())
        return [f"{what}: {format_duration(shortest)}; iterations are not: {shown}"], []
    return [], [f"neither iterations ({shown}) nor training time ({times}) were equal"]


def _known(run: Training) -> bool:
    return run.get("iterations") is not None and run.get("seconds") is not None


def _images(run: Training) -> str:
    """Images an optimizer step, in words."""
    if run.get("changes"):  # by `--force`
        return "changing numbers of images"
    parts = [run.get(key) for key in ("workers", "batch_size", "accumulate")]
    if None in parts:
        return "an unknown number of images"
    return f"{parts[0] * parts[1] * parts[2]} images"  # type: ignore[operator]


def _machine(run: Training) -> str:
    """What the time was taken on: as much on eight GPUs is not the same time."""
    return f"{run.get('workers') or '?'} x {escape_control(run.get('device') or 'unknown device')[:60]}"


def _machines(machines: Mapping[str, Sequence[str]]) -> str:
    told = [f"{label} on {' and '.join(each)}" for label, each in machines.items()]
    return "taken on different machines: " + "; ".join(told)


def _was(labels: Sequence[str]) -> str:
    return "was" if len(labels) == 1 else "were"


def _same(seconds: Sequence[float]) -> bool:
    return max(seconds) <= (1 + SAME_TIME) * min(seconds)


def _times(seconds: Mapping[str, Sequence[float]]) -> str:
    """Of each group, from the fastest of its seeds to the slowest where they differ."""
    bounds = {label: (min(each), max(each)) for label, each in seconds.items()}
    told = [
        f"{label} {format_duration(low)}" + ("" if _same((low, high)) else f" to {format_duration(high)}")
        for label, (low, high) in bounds.items()
    ]
    means = {label: statistics.fmean(each) for label, each in seconds.items()}
    first, shortest = min(means.items(), key=lambda item: item[1])
    longest = max(means.values())
    apart = shortest > 0 and not _same((shortest, longest))
    return ", ".join(told) + (f" (up to {longest / shortest:.1f} times {first}'s)" if apart else "")


def _range(steps: Sequence[tuple[int, str]]) -> str:
    counts = sorted(iterations for iterations, _ in steps)
    images = {of for _, of in steps}
    many = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"{many} of {images.pop()}" if len(images) == 1 else many
