"""Processes as /proc shows them: whose children they are, and which belong to a trial."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MARK = "RMRKD_ENDURANCE"  # in the environment of all that a trial starts, so that orphans are found as well


class Process(NamedTuple):
    """A process that is never mistaken for a later one of the same number."""

    pid: int
    started: int


def marked(mark: str) -> set[Process]:
    """All living processes of a trial."""
    entry = f"{MARK}={mark}".encode()
    found = set()
    for folder in _folders():
        with suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                found.add(Process(int(folder.name), _stat(folder)[1]))
    return found


def children(pid: int, *, with_argument: str) -> set[Process]:
    """The living children of a process whose command line holds an argument."""
    found = set()
    for folder in _folders():
        with suppress(OSError):
            parent, started = _stat(folder)
            if parent == pid and with_argument.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.add(Process(int(folder.name), started))
    return found


def end(process: Process) -> bool:
    """SIGKILL; False where it has ended by itself."""
    with suppress(OSError):
        if _stat(Path("/proc", str(process.pid)))[1] == process.started:
            os.kill(process.pid, signal.SIGKILL)
            return True
    return False


def _folders() -> list[Path]:
    return [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _stat(folder: Path) -> tuple[int, int]:
    """The parent's number and the moment of the start; a zombie counts as gone."""
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(folder.name)
    return int(fields[1]), int(fields[19])
