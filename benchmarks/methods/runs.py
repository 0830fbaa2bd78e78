"""The trainings that compare methods, and their outcomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.training import TEACHER, Training
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import weight_origin
from rmrkd_cli.results.record import Record

EQUAL_ITERATIONS = "equal-iterations"  # name of the folder
TUNED = "-tuned"  # end of the name of a folder of trainings with chosen weights


@dataclass(frozen=True)
class Conditions:
    """Settings of all trainings.

    Attributes:
        preset: A name or a file.
        settings: `KEY.PATH=VALUE`, as `--set` takes them.
        time: Seconds of computing that methods get at equal time.
        folder: Contains all runs.
    """

    preset: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    settings: tuple[str, ...]
    time: float
    folder: Path
    device: str

    @property
    def equal_time(self) -> str:
        """Name of the folder of the trainings at equal time."""
        return f"equal-time-{self.time:g}s"


@cache
def trains_teacher(conditions: Conditions) -> bool:
    """Return whether the preset has no teacher file, so that a teacher is trained first."""
    return load_preset(conditions.preset).teacher.checkpoint is None


def at_equal_iterations(conditions: Conditions, name: str, seed: int, chosen: Sequence[str] = ()) -> Training:
    """Return the training of a role or method; a method uses the teacher of its seed, which must be trained.

    Args:
        chosen: Weights and options by trials, as `settings`.
    """
    if not chosen:  # in one folder with the teacher
        return _training(conditions, name, seed, EQUAL_ITERATIONS)
    return _training(conditions, name, seed, EQUAL_ITERATIONS + TUNED, [*chosen, *_teacher(conditions, seed)])


def at_equal_time(
    conditions: Conditions, name: str, seed: int, iterations: int, chosen: Sequence[str] = ()
) -> Training:
    """Return the training of so many iterations, with the teacher of `at_equal_iterations`."""
    settings = [f"schedule.iters={iterations}", *chosen, *_teacher(conditions, seed)]
    return _training(conditions, name, seed, conditions.equal_time + (TUNED if chosen else ""), settings)


def _teacher(conditions: Conditions, seed: int) -> list[str]:
    """Return the setting that names the teacher of a seed; none if the preset names it."""
    if not trains_teacher(conditions):
        return []
    return [f"teacher.checkpoint={{path: {json.dumps(str(teacher_file(conditions, seed)))}}}"]


def _training(conditions: Conditions, name: str, seed: int, folder: str, settings: Sequence[str] = ()) -> Training:
    """Return a training in a folder of the folder of all runs, with more settings than those of the conditions."""
    settings = (*conditions.settings, *settings)
    return Training(name, conditions.preset, conditions.folder / folder, (seed,), settings, conditions.device)


@cache
def teacher_file(conditions: Conditions, seed: int) -> Path:
    """Return the file of a trained teacher."""
    [run] = at_equal_iterations(conditions, TEACHER, seed).runs()
    return run.run_dir.student


@dataclass(frozen=True)
class Outcome:
    """The outcome of all trainings of one role or method, in the order of the seeds.

    Attributes:
        miou: Percent.
        peak_memory: Bytes, the maximum over the seeds; None if no log contains it.
        weights: Of each distillation loss.
        origins: Where each weight comes from, in words.
    """

    name: str
    miou: tuple[float, ...]
    iterations: int
    peak_memory: float | None
    weights: Mapping[str, tuple[float, ...]]
    origins: Mapping[str, str]


def outcome(training: Training, records: Sequence[Record]) -> Outcome:
    """Return the outcome of trainings that differ in the seed alone.

    Args:
        training: One of them.
        records: Of all, in the order of the seeds.
    """
    facts: list[dict[str, Any]] = [record.get("training") or {} for record in records]
    weights = [each.get("weights") or {} for each in facts]
    peaks = [peak for record in records if (peak := record.get("peak_memory")) is not None]
    preset = training.runs()[0].preset
    return Outcome(
        training.name,
        tuple(100 * (record["metrics"]["miou"] or 0.0) for record in records),
        facts[0]["iterations"],
        max(peaks, default=None),
        {name: tuple(each[name] for each in weights) for name in weights[0]},
        {name: weight_origin(preset, name) for name in weights[0]},
    )
