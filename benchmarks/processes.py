"""Whole processes as sides of a measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.result import Disagreement


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
