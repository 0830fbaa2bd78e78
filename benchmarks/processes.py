"""Whole processes as sides of a measure."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.result import Disagreement, Setting


def rmrkd() -> Path:
    """The console script of the environment that runs the benchmarks."""
    script = Path(sys.executable).parent / "rmrkd"
    if not script.exists():
        raise FileNotFoundError(f"{script} is missing; run `uv sync`")
    return script


def output(*command: object) -> str:
    """What a process writes to stdout; its stderr is shown where it fails."""
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if ended.returncode:
        raise Disagreement(f"`{' '.join(map(str, command))}` ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return ended.stdout


def seconds_of(setting: Setting, *command: object) -> list[float]:
    """How long a process takes, once for each pair of a measure."""
    taken = []
    for _ in range(setting.pairs):
        began = time.perf_counter()
        output(*command)
        taken.append(time.perf_counter() - began)
    return taken
