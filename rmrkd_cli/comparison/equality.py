"""In which respect trainings were equal: equal iterations and equal time are different claims."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rmrkd_cli.durations import duration

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
    seconds = {label: statistics.fmean(run["seconds"] for run in runs) for label, runs in trained}
    same_steps = len({step for each in steps.values() for step in each}) == 1
    same_time = max(seconds.values()) <= (1 + SAME_TIME) * min(seconds.values())
    if same_steps:
        iterations, images = next(iter(steps.values()))[0]
        told = f"equal iterations: {iterations} of {images} images"
        return [
            f"{told}, and equal training time" if same_time else f"{told}; training time is not: {_times(seconds)}"
        ], []
    shown = ", ".join(f"{label} {_range(each)}" for label, each in steps.items())
    if same_time:
        budgets = {run.get("time_budget") for _, runs in trained for run in runs}
        what = (
            "equal training time, as budgeted" if None not in budgets and len(budgets) == 1 else "equal training time"
        )
        return [f"{what}: {duration(min(seconds.values()))}; iterations are not: {shown}"], []
    return [], [f"neither iterations ({shown}) nor training time ({_times(seconds)}) were equal"]


def _known(run: Training) -> bool:
    return run.get("iterations") is not None and run.get("seconds") is not None


def _images(run: Training) -> int | None:
    """Images an optimizer step."""
    parts = [run.get(key) for key in ("workers", "batch_size", "accumulate")]
    return None if None in parts else parts[0] * parts[1] * parts[2]  # type: ignore[operator]


def _was(labels: Sequence[str]) -> str:
    return "was" if len(labels) == 1 else "were"


def _times(seconds: Mapping[str, float]) -> str:
    first, shortest = min(seconds.items(), key=lambda item: item[1])
    told = [f"{label} {duration(value)}" for label, value in seconds.items()]
    longest = max(seconds.values())
    return ", ".join(told) + (f" (up to {longest / shortest:.1f} times {first}'s)" if shortest > 0 else "")


def _range(steps: Sequence[tuple[int, int | None]]) -> str:
    counts = sorted(iterations for iterations, _ in steps)
    images = {of for _, of in steps}
    many = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"{many} of {images.pop()} images" if len(images) == 1 else many
