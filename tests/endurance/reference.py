"""Uninterrupted reference runs; each is made once and kept."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.endurance.commands import Call, Command, TrialFailed
from tests.endurance.watch import checkpoints

Make = Callable[[Call, Path], tuple[float, float]]  # (call, folder) → seconds of start-up, seconds in total
STOPPED_AFTER = 30  # iterations of the run for the experiment `damage`
BASELINE = Call(name="baseline", role="baseline")
TEACHER = Call(name="teacher", role="teacher", iters=8)
PAIR = Call(name="pair", role="baseline", options=("--gpus", "2", "--batch-size", "4"))


class NoReference(Exception):
    """A reference run failed, so no trial can be compared."""


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run."""

    run_dir: Path
    startup: float  # seconds until the first line of the log
    seconds: float  # total

    @property
    def checkpoint_size(self) -> int:
        return checkpoints(self.run_dir)[0].stat().st_size

    def expected(self, done: int, iters: int) -> float:
        """Return the seconds that a command will take to resume after `done` iterations."""
        return self.startup + (self.seconds - self.startup) * (1 - done / iters)


class References:
    """Makes missing reference runs in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder, threading.RLock()

    def distill(self) -> Call:
        """Return the call for a distillation; train its teacher if needed."""
        teacher = self.of(TEACHER).run_dir / "student.pth"
        return Call(name="distill", role="distill", options=("--teacher-checkpoint", str(teacher)))

    def of(self, call: Call) -> Reference:
        """Return the complete run of a call."""
        return self._get(call, call.name, _complete)

    def stopped(self) -> Reference:
        """Return a run that SIGTERM stopped after at least two checkpoints."""
        return self._get(BASELINE, "stopped", _stopped)

    def _get(self, call: Call, name: str, make: Make) -> Reference:
        kept, making = self.folder / name, self.folder / f"{name}.making"
        with self._lock:
            if not (kept / "times.json").is_file():
                shutil.rmtree(making, ignore_errors=True)
                try:
                    startup, seconds = make(call, making)
                except TrialFailed as error:
                    raise NoReference(f"no reference `{name}`, see {making}: {error}") from error
                found = Reference(kept / call.role, startup, seconds)
                times = {key: value for key, value in asdict(found).items() if key != "run_dir"}
                (making / "times.json").write_text(json.dumps(times), encoding="utf-8")
                shutil.rmtree(kept, ignore_errors=True)
                making.rename(kept)
            return Reference(kept / call.role, **json.loads((kept / "times.json").read_text(encoding="utf-8")))


def machine_options(rank: int, port: int) -> tuple[str, ...]:
    """Return the options of one of two launchers on this machine."""
    return "--node-rank", str(rank), "--rdzv-endpoint", f"127.0.0.1:{port}"


def _complete(call: Call, folder: Path) -> tuple[float, float]:
    command = _start(call, folder)
    try:
        command.until(lambda: bool(command.watch.new_line()))
        startup = command.seconds
        command.expect(0)
        return startup, command.seconds
    finally:
        _end(command)


def _stopped(call: Call, folder: Path) -> tuple[float, float]:
    command = _start(call, folder)
    try:
        if not command.until(lambda: command.watch.new_line().get("iter", 0) >= STOPPED_AFTER, every=0.001):
            command.expect(128 + signal.SIGTERM)
        command.send(signal.SIGTERM)
        command.expect(128 + signal.SIGTERM)
        if len(checkpoints(folder / call.role)) < 2:
            raise TrialFailed("a stopped run has no two checkpoints")
        return 0.0, command.seconds
    finally:
        _end(command)


def _start(call: Call, folder: Path) -> Command:
    line = call.line(folder, loaders=1)
    return Command(line, folder / call.role, folder / "output.txt", mark="reference", core=None)


def _end(command: Command) -> None:
    if not command.ended:
        command.kill()
