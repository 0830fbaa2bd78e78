"""The command as a user starts it, and waiting for what it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.endurance import processes
from tests.endurance.watch import EVAL_INTERVAL, ITERS, Watch

ROOT = Path(__file__).resolve().parents[2]
HUNG_SECONDS = 1200  # no command takes nearly as long
stopping = threading.Event()  # set when the experiments are told to stop


class Failed(Exception):
    """The trial has failed, and what follows would tell nothing."""


class Stopped(Exception):
    """The experiments are being stopped; the trial will be made again."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A way to call `rmrkd train`; calls with one name end alike."""

    name: str
    role: str
    iters: int = ITERS
    options: tuple[str, ...] = ()

    def line(self, work_dir: Path, *, loaders: int, more: tuple[str, ...] = ()) -> list[str]:
        """Arguments; settings of the schedule make evaluations, checkpoints and log lines frequent."""
        schedule = {"eval_interval": EVAL_INTERVAL, "checkpoint_interval": 5, "log_interval": 1}
        settings = [text for key, value in schedule.items() for text in ("--set", f"schedule.{key}={value}")]
        return [
            sys.executable, "-m", "rmrkd_cli", "train", "--preset", "demo", "--role", self.role, "--device", "cpu",
            "--max-iters", str(self.iters), "--workers", str(loaders), *settings, "--work-dir", str(work_dir),
            *self.options, *more,
        ]  # fmt: skip


class Command:
    """A started command.

    Args:
        told: File that its stdout and stderr are written to.
        mark: By which all processes it starts are found again.
        core: Processor it is bound to, with all that it starts.
    """

    def __init__(self, line: list[str], run_dir: Path, told: Path, *, mark: str, core: int | None) -> None:
        self.watch, self.told = Watch(run_dir), told
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", processes.MARK: mark}
        told.parent.mkdir(parents=True, exist_ok=True)
        with told.open("wb") as stream:
            self.process = subprocess.Popen(
                line, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the terminal is for the experiments alone
            )  # fmt: skip
        self.began = time.monotonic()
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core})

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def until(self, condition: Callable[[], bool], *, every: float = 0.005) -> bool:
        """Waits; False where the command ended first."""
        while not self.ended:
            if condition():
                return True
            if stopping.wait(every):
                raise Stopped
            if self.seconds > HUNG_SECONDS:
                raise Failed(f"hung: {self.told.name} did not end within {HUNG_SECONDS} s")
        return False

    def wait(self) -> int:
        """The exit status."""
        self.until(lambda: False, every=0.01)
        return self.process.wait()

    def send(self, signum: int) -> None:
        """A signal to this process alone."""
        self.process.send_signal(signum)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()

    def message(self) -> str:
        """What it wrote, without spaces and line ends: a terminal's width would cut file names in two."""
        return "".join(self.told.read_text("utf-8", errors="replace").split())

    def expect(self, code: int) -> None:
        """Waits for the end.

        Raises:
            Failed: When it ends otherwise, with what it said last.
        """
        met = self.wait()
        if met != code:
            raise Failed(f"{self.told.name}: exit status {met} in place of {code}: {self.last_words()}")

    def last_words(self) -> str:
        return " | ".join(self.told.read_text("utf-8", errors="replace").splitlines()[-4:])[-400:]
