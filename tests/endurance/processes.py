"""Find processes in /proc: the children of a process, and all processes of a trial."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MARK = "RMRKD_ENDURANCE"  # environment variable of all processes of a trial, so that orphans are found


class Process(NamedTuple):
    """A process; its start time distinguishes it from a later process with the same id."""

    pid: int
    started: int


def find_marked(mark: str) -> set[Process]:
    """Return all living processes of a trial."""
    entry = f"{MARK}={mark}".encode()
    found = set()
    for folder in _folders():
        with suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                found.add(Process(int(folder.name), _stat(folder)[1]))
    return found


def children(pid: int, *, with_argument: str) -> set[Process]:
    """Return the living children of a process that have an argument in their command line."""
    found = set()
    for folder in _folders():
        with suppress(OSError):
            parent, started = _stat(folder)
            if parent == pid and with_argument.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.add(Process(int(folder.name), started))
    return found


def end(process: Process) -> bool:
    """Send SIGKILL; return False if the process has already ended."""
    with suppress(OSError):
        if _stat(Path("/proc", str(process.pid)))[1] == process.started:
            os.kill(process.pid, signal.SIGKILL)
            return True
    return False


def _folders() -> list[Path]:
    return [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _stat(folder: Path) -> tuple[int, int]:
    """Return the parent's id and the start time; raise ProcessLookupError for a zombie."""
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(folder.name)
    return int(fields[1]), int(fields[19])
