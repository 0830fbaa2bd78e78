"""Whether the students of a comparison had equal iterations, equal training time, both or neither."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rmrkd_cli.results.training_images import describe_images
from rmrkd_cli.terminal.durations import format_duration
from rmrkd_cli.terminal.text import shorten

SAME_TIME = 0.03  # relative difference of training times that count as equal

Training = Mapping[str, Any]
_LENGTHS = {"iters": "iterations", "time_budget": "s"}  # settings that change when a run is trained further, and units


def describe_training(groups: Sequence[tuple[str, Sequence[Training]]]) -> tuple[list[str], list[str]]:
    """Return sentences about what was equal, and warnings where nothing was.

    Args:
        groups: Label of each group of students, and the `training` of each of its records; empty where unknown.
    """
    if len(groups) < 2:
        return [], []
    unknown = [label for label, runs in groups if not all(_is_known(run) for run in runs)]
    if unknown:
        return [], [f"iterations and training time of {', '.join(unknown)} are unknown and may be unequal"]
    runs = [run for _, of_group in groups for run in of_group]
    steps = {label: [(run["iterations"], _images_per_step(run)) for run in of_group] for label, of_group in groups}
    seconds = {label: [run["seconds"] for run in of_group] for label, of_group in groups}
    machines = {label: sorted({_machine(run) for run in of_group}) for label, of_group in groups}
    different_machines = len({machine for each in machines.values() for machine in each}) > 1
    same_steps = len({step for each in steps.values() for step in each}) == 1
    same_steps = same_steps and not any(_batch_changes(run) for run in runs)
    further = _trained_further(groups)
    same_time = not different_machines and _is_same_time([run["seconds"] for run in runs])
    times = _times_text(seconds) + (f", {_machines_text(machines)}" if different_machines else "")
    if same_steps:
        iterations, images = next(iter(steps.values()))[0]
        text = f"equal iterations: {iterations} of {images}"
        return [f"{text}, and equal training time" if same_time else f"{text}; unequal training time: {times}"], further
    counts = ", ".join(f"{label} {_steps_text(each)}" for label, each in steps.items())
    if same_time:
        budgets = {run.get("time_budget") for run in runs}
        budgeted = ", as budgeted" if None not in budgets and len(budgets) == 1 else ""
        shortest = format_duration(min(run["seconds"] for run in runs))
        return [f"equal training time{budgeted}: {shortest}; unequal iterations: {counts}"], further
    return [], [f"neither iterations ({counts}) nor training time ({times}) were equal", *further]


def describe_training_images(groups: Sequence[tuple[str, Sequence[Training]]]) -> list[str]:
    """Return a sentence that says on which images each group was trained, if some of them had no labels.

    Args:
        groups: As for `describe_training`.
    """
    texts = {label: list(dict.fromkeys(filter(None, map(describe_images, runs)))) for label, runs in groups}
    if not any(run.get("unlabelled_images") for _, runs in groups for run in runs):
        return []
    known = [f"{label} on {' or '.join(each)}" for label, each in texts.items() if each]
    return [f"trained: {'; '.join(known)}"]


def _trained_further(groups: Sequence[tuple[str, Sequence[Training]]]) -> list[str]:
    """Return a warning if some students were trained further than their first length, unlike others."""
    histories = {label: {_length_changes(run) for run in runs} for label, runs in groups}
    if len({history for of_group in histories.values() for history in of_group}) == 1:
        return []
    texts = [
        f"{label} " + " or ".join(" and ".join(history) if history else "in one go" for history in sorted(of_group))
        for label, of_group in histories.items()
    ]
    return [f"trained unalike: {', '.join(texts)}; the learning rate rises again where a run is trained further"]


def _length_changes(run: Training) -> tuple[str, ...]:
    """Return the points at which a run was trained further, in words."""
    changes = run.get("changes")
    texts = []
    for change in changes if isinstance(changes, list) else []:
        for key, unit in _LENGTHS.items():
            pair = change.get(key) if isinstance(change, Mapping) else None
            if isinstance(pair, list) and len(pair) == 2:
                where = shorten(change.get("iteration"))
                texts.append(f"further at iteration {where} (from {shorten(pair[0])} to {shorten(pair[1])} {unit})")
    return tuple(texts)


def _batch_changes(run: Training) -> bool:
    """Return whether a run was resumed with `--force` and other settings of its batches."""
    changes = run.get("changes") or []
    known = [change for change in changes if isinstance(change, Mapping)] if isinstance(changes, list) else []
    return len(known) < len(changes) or any(set(change) - {"iteration", *_LENGTHS} for change in known)


def _is_known(run: Training) -> bool:
    return run.get("iterations") is not None and run.get("seconds") is not None


def _images_per_step(run: Training) -> str:
    """Return the number of images of one optimizer step, in words."""
    if _batch_changes(run):
        return "changing numbers of images"
    factors = [run.get(key) for key in ("workers", "batch_size", "accumulate")]
    if None in factors:
        return "an unknown number of images"
    return f"{factors[0] * factors[1] * factors[2]} images"  # type: ignore[operator]


def _machine(run: Training) -> str:
    """Return number and name of the devices; times on different devices are never equal."""
    return f"{run.get('workers') or '?'} x {shorten(run.get('device') or 'unknown device')}"


def _machines_text(machines: Mapping[str, Sequence[str]]) -> str:
    texts = [f"{label} on {' and '.join(each)}" for label, each in machines.items()]
    return "measured on different machines: " + "; ".join(texts)


def _is_same_time(seconds: Sequence[float]) -> bool:
    return max(seconds) <= (1 + SAME_TIME) * min(seconds)


def _times_text(seconds: Mapping[str, Sequence[float]]) -> str:
    """Return the time of each group, with the range over its seeds where they differ."""
    ranges = {label: (min(each), max(each)) for label, each in seconds.items()}
    texts = [
        f"{label} {format_duration(low)}" + ("" if _is_same_time((low, high)) else f" to {format_duration(high)}")
        for label, (low, high) in ranges.items()
    ]
    means = {label: statistics.fmean(each) for label, each in seconds.items()}
    fastest, shortest = min(means.items(), key=lambda item: item[1])
    longest = max(means.values())
    unequal = shortest > 0 and not _is_same_time((shortest, longest))
    return ", ".join(texts) + (f" (up to {longest / shortest:.1f} times {fastest}'s)" if unequal else "")


def _steps_text(steps: Sequence[tuple[int, str]]) -> str:
    counts = sorted(iterations for iterations, _ in steps)
    images = {per_step for _, per_step in steps}
    text = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"{text} of {images.pop()}" if len(images) == 1 else text
