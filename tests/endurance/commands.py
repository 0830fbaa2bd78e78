"""Start the command as a user does, and wait for what it does."""

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
HUNG_SECONDS = 1200  # far more than any command takes
stopping = threading.Event()  # set when the experiments are stopped


class TrialFailed(Exception):
    """The trial failed and ends."""


class Stopped(Exception):
    """The experiments are being stopped; the trial will be repeated."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of `rmrkd train`; calls with the same name give the same result."""

    name: str
    role: str
    iters: int = ITERS
    options: tuple[str, ...] = ()

    def line(self, work_dir: Path, *, loaders: int, more: tuple[str, ...] = ()) -> list[str]:
        """Return the command line, with frequent validations, checkpoints and log lines."""
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
        output: File for its stdout and stderr.
        mark: Environment entry by which all its processes are found.
        core: CPU core that it and its children are bound to.
    """

    def __init__(self, line: list[str], run_dir: Path, output: Path, *, mark: str, core: int | None) -> None:
        self.watch, self.output = Watch(run_dir), output
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", processes.MARK: mark}
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("wb") as stream:
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
        """Wait for a condition; return False if the command ended first."""
        while not self.ended:
            if condition():
                return True
            if stopping.wait(every):
                raise Stopped
            if self.seconds > HUNG_SECONDS:
                raise TrialFailed(f"hung: {self.output.name} did not end within {HUNG_SECONDS} s")
        return False

    def wait(self) -> int:
        """Wait for the end, and return the exit status."""
        self.until(lambda: False, every=0.01)
        return self.process.wait()

    def send(self, signum: int) -> None:
        """Send a signal to this process only."""
        self.process.send_signal(signum)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()

    def message(self) -> str:
        """Return its output without whitespace, because line breaks can split file names."""
        return "".join(self.output.read_text("utf-8", errors="replace").split())

    def expect(self, code: int) -> None:
        """Wait for the end.

        Raises:
            TrialFailed: When the exit status differs; the message contains the last lines of the output.
        """
        status = self.wait()
        if status != code:
            raise TrialFailed(f"{self.output.name}: exit status {status} instead of {code}: {self.last_lines()}")

    def last_lines(self) -> str:
        return " | ".join(self.output.read_text("utf-8", errors="replace").splitlines()[-4:])[-400:]
