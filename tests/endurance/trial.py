"""One trial: its room, its random choices, the commands it starts, and what came of it."""

from __future__ import annotations

import random
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.endurance import processes
from tests.endurance.commands import Call, Command, Failed, Stopped
from tests.endurance.ends import differences
from tests.endurance.reference import BASELINE, NoReference, Reference, References

LOADERS = (0, 1, 3)  # loader processes, drawn anew for each start: they must not change anything
_ORPHAN_SECONDS = 30  # a loader process looks for its parent every five seconds


class Impossible(Exception):
    """The machine does not allow the experiment."""


class Trial:
    """What an experiment works with.

    Attributes:
        draw: All random choices; they depend on the seed, the experiment and the trial's number alone.
        room: A directory of its own, kept when the trial fails.
        hits: What each signal hit, or which damage was done.
        notes: More facts for the record.
        reaction: Seconds from a signal to the exit.
    """

    def __init__(
        self, experiment: str, number: int, *, seed: int, output: Path, references: References, core: int | None
    ) -> None:
        self.experiment, self.number, self.core = experiment, number, core
        self.draw = random.Random(f"{seed}/{experiment}/{number}")
        self.room = output / f"{experiment}-{number}"
        self.references = references
        self.hits: list[str] = []
        self.notes: dict[str, Any] = {}
        self.reaction: float | None = None
        self._mark = str(self.room)
        self._started: list[Command] = []

    def call(self) -> Call:
        """Distillation in odd trials, the student alone in even ones."""
        return self.references.distill() if self.number % 2 else BASELINE

    def start(self, call: Call, folder: Path | None = None, *more: str) -> Command:
        """Starts a call on a work directory, the trial's own unless told."""
        folder = folder or self.room / "work"
        line = call.line(folder, loaders=self.draw.choice(LOADERS), more=more)
        told = self.room / f"told{len(self._started)}.txt"
        command = Command(line, folder / call.role, told, mark=self._mark, core=self.core)
        self._started.append(command)
        return command

    def finish(self, call: Call, reference: Reference, folder: Path | None = None) -> Command:
        """Resumes, and holds the end against the reference.

        Raises:
            Failed: When it differs in anything.
        """
        command = self.start(call, folder, "--resume")
        command.expect(0)
        self.compare((folder or self.room / "work") / call.role, reference)
        return command

    def compare(self, run_dir: Path, reference: Reference) -> None:
        """Raises Failed with every difference."""
        found = differences(run_dir, reference.run_dir)
        if found:
            raise Failed("; ".join(found))

    def run(self, experiment: Callable[[Trial], None]) -> dict[str, Any]:
        """The trial's line of results; the room is gone if it passed."""
        began = time.monotonic()
        self._clear()
        self.room.mkdir(parents=True)
        passed: bool | None = True
        problem = ""
        try:
            experiment(self)
            self._no_orphans()
        except (Stopped, NoReference):
            passed = None  # no outcome: the trial will be made again
            raise
        except Failed as error:
            passed, problem = False, str(error)
        except Impossible as error:
            passed, problem = None, f"not possible here: {error}"
        except Exception:
            passed, problem = False, f"the experiment itself: {traceback.format_exc()}"
        finally:
            self._end_all()
            if passed is not False:
                self._clear()
        facts = {"hits": self.hits, "reaction": self.reaction, **self.notes, "seconds": time.monotonic() - began}
        return {"experiment": self.experiment, "trial": self.number, "passed": passed, "problem": problem, **facts}

    def _no_orphans(self) -> None:
        """Raises Failed where a process outlives the one that needed it."""
        until = time.monotonic() + _ORPHAN_SECONDS
        while left := processes.marked(self._mark):
            if time.monotonic() > until:
                raise Failed(f"{len(left)} processes left behind after {_ORPHAN_SECONDS} s")
            time.sleep(0.1)

    def _end_all(self) -> None:
        for process in processes.marked(self._mark):
            processes.end(process)
        for command in self._started:
            command.process.wait()

    def _clear(self) -> None:
        shutil.rmtree(self.room, ignore_errors=True)
