"""The trainings that are compared, each a separate command, and their outcomes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import weight_origin
from rmrkd_cli.presets.schema import OWN_METHOD
from rmrkd_cli.results.record import Record
from rmrkd_cli.training.plan import Run, plan_runs

ROOT = Path(__file__).parents[2]
BASELINE, TEACHER = "baseline", "teacher"  # roles, listed like methods
EQUAL_ITERATIONS = "equal-iterations"  # name of the folder
Start = Callable[[list[str], Path], int]  # arguments of `rmrkd`, a file for its output; its exit status


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


@dataclass(frozen=True)
class Training:
    """One role or method for some seeds, trained by a separate command, so that its memory is measured alone.

    Attributes:
        name: "teacher", "baseline", or a method.
        settings: Added to those of the conditions.
    """

    name: str
    conditions: Conditions
    folder: Path
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        return self.name if self.name in (BASELINE, TEACHER) else "distill"

    @property
    def _method(self) -> str | None:
        return self.name if self.role == "distill" and self.name != OWN_METHOD else None

    def runs(self) -> list[Run]:
        """Return one run for each seed, as the command plans them."""
        settings = [*self.conditions.settings, *self.settings, f"role={self.role}", f"seed={self.seeds[0]}"]
        preset = load_preset(self.conditions.preset, method=self._method, overrides=settings)
        return [run for plan in plan_runs(preset, self.folder, self.seeds) for run in plan]

    @property
    def finished(self) -> bool:
        """Whether every seed is finished.

        Raises:
            RmrkdError: The folder contains runs with other settings.
        """
        runs = self.runs()
        for run in runs:
            run.run_dir.check_usable(run.preset, resume=True, fresh=False)
        return all(run.run_dir.finished for run in runs)

    def arguments(self) -> list[str]:
        """Return the arguments of `rmrkd`; existing runs are resumed."""
        method = ["--method", self._method] if self._method is not None else []
        settings = [part for text in (*self.conditions.settings, *self.settings) for part in ("--set", text)]
        return [
            "train", "--preset", self.conditions.preset, "--role", self.role, *method,
            "--seeds", ",".join(map(str, self.seeds)), "--work-dir", str(self.folder),
            "--device", self.conditions.device, "--resume", *settings,
        ]  # fmt: skip


@cache
def trains_teacher(conditions: Conditions) -> bool:
    """Return whether the preset has no teacher file, so that a teacher is trained first."""
    return load_preset(conditions.preset).teacher.checkpoint is None


def at_equal_iterations(conditions: Conditions, name: str, seed: int, chosen: Sequence[str] = ()) -> Training:
    """Return the training of a role or method; a method uses the teacher of its seed, which must be trained.

    Args:
        chosen: Weights and options by trials, as `settings`.
    """
    return Training(name, conditions, conditions.folder / EQUAL_ITERATIONS, (seed,), tuple(chosen))


def at_equal_time(
    conditions: Conditions, name: str, seed: int, iterations: int, chosen: Sequence[str] = ()
) -> Training:
    """Return the training of so many iterations, with the teacher of `at_equal_iterations`."""
    settings = [f"schedule.iters={iterations}", *chosen]
    if trains_teacher(conditions):
        settings.append(f"teacher.checkpoint={{path: {json.dumps(str(teacher_file(conditions, seed)))}}}")
    return Training(name, conditions, conditions.folder / conditions.equal_time, (seed,), tuple(settings))


@cache
def teacher_file(conditions: Conditions, seed: int) -> Path:
    """Return the file of a trained teacher."""
    [run] = at_equal_iterations(conditions, TEACHER, seed).runs()
    return run.run_dir.student


def start(arguments: list[str], output: Path) -> int:
    """Run `rmrkd` in a new process, write its output to a file, and return the exit status."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as stream:
        command = wrap_in_shell([sys.executable, "-m", "rmrkd_cli", *arguments])
        return subprocess.call(command, cwd=ROOT, stdout=stream, stderr=stream)


def wrap_in_shell(command: Sequence[str]) -> list[str]:
    """Return the command as the child of a shell.

    On Linux, a process starts with the peak memory of its parent, and this process has loaded torch.
    """
    return ["sh", "-c", '"$@"; exit $?', "sh", *command]


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
