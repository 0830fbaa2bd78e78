"""One trial of an experiment: its folder, random choices, commands and result."""

from __future__ import annotations

import random
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.endurance import processes
from tests.endurance.commands import Call, Command, Stopped, TrialFailed
from tests.endurance.ends import differences
from tests.endurance.reference import BASELINE, NoReference, Reference, References

LOADERS = (0, 1, 3)  # loader processes, chosen at random for each command; they must not change the result
_ORPHAN_SECONDS = 30  # a loader process looks for its parent every five seconds


class NotPossible(Exception):
    """The machine does not support the experiment."""


class Trial:
    """The state of one trial.

    Attributes:
        rng: Source of all random choices; seeded by seed, experiment and trial number.
        folder: The trial's own folder, kept if the trial fails.
        events: The phase in which each signal arrived, or the kind of damage.
        notes: More entries for the result line.
        reaction: Seconds from a signal to the exit.
    """

    def __init__(
        self, experiment: str, number: int, *, seed: int, output: Path, references: References, core: int | None
    ) -> None:
        self.experiment, self.number, self.core = experiment, number, core
        self.rng = random.Random(f"{seed}/{experiment}/{number}")
        self.folder = output / f"{experiment}-{number}"
        self.references = references
        self.events: list[str] = []
        self.notes: dict[str, Any] = {}
        self.reaction: float | None = None
        self._mark = str(self.folder)
        self._started: list[Command] = []

    def call(self) -> Call:
        """Return a distillation in odd trials, a baseline in even ones."""
        return self.references.distill() if self.number % 2 else BASELINE

    def start(self, call: Call, folder: Path | None = None, *more: str) -> Command:
        """Start a call in a work directory (default: the trial's own)."""
        folder = folder or self.folder / "work"
        line = call.line(folder, loaders=self.rng.choice(LOADERS), more=more)
        output = self.folder / f"output{len(self._started)}.txt"
        command = Command(line, folder / call.role, output, mark=self._mark, core=self.core)
        self._started.append(command)
        return command

    def finish(self, call: Call, reference: Reference, folder: Path | None = None) -> Command:
        """Resume the run, and compare its result with the reference.

        Raises:
            TrialFailed: When anything differs.
        """
        command = self.start(call, folder, "--resume")
        command.expect(0)
        self.compare((folder or self.folder / "work") / call.role, reference)
        return command

    def compare(self, run_dir: Path, reference: Reference) -> None:
        """Raise TrialFailed with all differences."""
        different = differences(run_dir, reference.run_dir)
        if different:
            raise TrialFailed("; ".join(different))

    def run(self, experiment: Callable[[Trial], None]) -> dict[str, Any]:
        """Run the trial, and return its result line; the folder is deleted if it passed."""
        began = time.monotonic()
        self._clear()
        self.folder.mkdir(parents=True)
        passed: bool | None = True
        problem = ""
        try:
            experiment(self)
            self._no_orphans()
        except (Stopped, NoReference):
            passed = None  # no outcome; the trial will be repeated
            raise
        except TrialFailed as error:
            passed, problem = False, str(error)
        except NotPossible as error:
            passed, problem = None, f"not possible on this machine: {error}"
        except Exception:
            passed, problem = False, f"the experiment itself: {traceback.format_exc()}"
        finally:
            self._end_all()
            if passed is not False:
                self._clear()
        facts = {"hits": self.events, "reaction": self.reaction, **self.notes, "seconds": time.monotonic() - began}
        return {"experiment": self.experiment, "trial": self.number, "passed": passed, "problem": problem, **facts}

    def _no_orphans(self) -> None:
        """Raise TrialFailed if a process outlives its parent."""
        until = time.monotonic() + _ORPHAN_SECONDS
        while remaining := processes.find_marked(self._mark):
            if time.monotonic() > until:
                raise TrialFailed(f"{len(remaining)} processes left behind after {_ORPHAN_SECONDS} s")
            time.sleep(0.1)

    def _end_all(self) -> None:
        for process in processes.find_marked(self._mark):
            processes.end(process)
        for command in self._started:
            command.process.wait()

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
