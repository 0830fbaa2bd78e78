"""Run and time whole processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.result import Disagreement, Setting


def rmrkd() -> Path:
    """Return the `rmrkd` script of the current environment."""
    script = Path(sys.executable).parent / "rmrkd"
    if not script.exists():
        raise FileNotFoundError(f"{script} is missing; run `uv sync`")
    return script


def output(*command: object) -> str:
    """Return the stdout of a process. Raises `Disagreement` with its stderr if it fails."""
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if process.returncode:
        raise Disagreement(f"`{' '.join(map(str, command))}` ended with {process.returncode}: {process.stderr[-2000:]}")
    return process.stdout


def time_process(setting: Setting, *command: object) -> list[float]:
    """Return the seconds of a process, once per pair."""
    times = []
    for _ in range(setting.pairs):
        began = time.perf_counter()
        output(*command)
        times.append(time.perf_counter() - began)
    return times
