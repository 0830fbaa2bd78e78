"""Write, keep and find the checkpoint files of one run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmrkd_cli.checkpoints import digest
from rmrkd_cli.checkpoints.reader import read_checkpoint, save_torch
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.atomic import PARTIAL, link_or_copy

_NAME = re.compile(r"iter_(\d+)\.pth")
DAMAGED = ".damaged"  # suffix of a renamed damaged file
_FRESH_HINT = "--fresh renames this run directory and starts over"


class RunCheckpoints:
    """The files `iter_N.pth`, `last.pth` and `best.pth` in a run directory.

    `last.pth` and `best.pth` are hard links to an `iter_N.pth`, or copies where the file system has no hard links.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.pth"
        self.best = folder / "best.pth"

    def list_numbered(self) -> list[Path]:
        """Return all `iter_N.pth`, newest first."""
        found = [(int(m[1]), p) for p in self.folder.glob("iter_*.pth") if (m := _NAME.fullmatch(p.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def save(self, contents: Mapping[str, Any], iteration: int, *, best: bool, keep: int) -> None:
        """Write `iter_N.pth`, link `last.pth` (and `best.pth`) to it, then delete the oldest beyond `keep`.

        Nothing is deleted before `save_torch` has read the new file again and found it intact.

        Raises:
            RunError: The file cannot be written, or is damaged when it is read again.
        """
        path = self.folder / f"iter_{iteration}.pth"
        save_torch(contents, path)
        link_or_copy(path, self.last)
        if best:
            link_or_copy(path, self.best)
        for old in self.list_numbered()[keep:]:
            old.unlink()

    def latest_valid(self, log: Callable[[str], None]) -> Path | None:
        """Return the newest intact checkpoint, to resume from; None where nothing was saved yet.

        Newer damaged files are reported and renamed, so that they are neither loaded nor counted by `keep`.

        Raises:
            RmrkdError: There are checkpoints, and all are damaged.
        """
        path, damaged = self._newest_intact()
        for bad, damage in damaged:
            log(f"`{bad}` is damaged ({damage}): renamed to `{_quarantine(bad).name}`; resuming from `{path}`")
        return path

    def check_resumable(self, *, required: bool = False) -> None:
        """Check the file that `latest_valid` will return, before a network is built for it; change nothing.

        Args:
            required: There must be one, because a finished run is trained further.

        Raises:
            RmrkdError: As `latest_valid`, or the file is intact but not a checkpoint of a run.
        """
        path, _ = self._newest_intact()
        if path is None and required:
            raise RmrkdError(f"`{self.folder}` has no checkpoint from which it can be trained further", _FRESH_HINT)
        if path is not None and read_checkpoint(path, lazy=True, verified=True).kind != "run":
            raise RmrkdError(f"`{path}` is not a checkpoint of a training run", _FRESH_HINT)

    def tensor_names(self) -> set[str]:
        """Return the names of the tensors in the file that `latest_valid` will return; empty without one.

        Raises:
            RmrkdError: As `check_resumable`.
        """
        path, _ = self._newest_intact()
        return set() if path is None else set(read_checkpoint(path, lazy=True, verified=True).state)

    def _newest_intact(self) -> tuple[Path | None, list[tuple[Path, str]]]:
        """Return the newest intact checkpoint, and every newer damaged one with its damage."""
        damaged: list[tuple[Path, str]] = []
        for path in self._candidates():
            damage = digest.find_damage(path, required=True)
            if not damage:
                return path, damaged
            damaged.append((path, damage))
        if damaged:
            lines = "\n".join(f"  {path.name}: {damage}" for path, damage in damaged)
            raise RmrkdError(f"all checkpoints in `{self.folder}` are damaged:\n{lines}", _FRESH_HINT)
        return None, damaged

    def repair_links(self, source: Path, best_iteration: int, log: Callable[[str], None]) -> None:
        """Link `last.pth` and `best.pth` as they were when `source` was written.

        The process may have been killed after it wrote a checkpoint and before it linked it.

        Args:
            source: The checkpoint that training resumes from.
            best_iteration: Iteration of the best score so far; 0 for none.
        """
        if not (self.last.exists() and self.last.samefile(source)):
            link_or_copy(source, self.last)
        if not best_iteration or _iteration_of(self.best) == best_iteration:
            return
        kept = self.folder / f"iter_{best_iteration}.pth"
        if _iteration_of(kept) == best_iteration:
            link_or_copy(kept, self.best)
            return
        if self.best.exists() and digest.find_damage(self.best, required=True):
            _quarantine(self.best)
        log(f"the best checkpoint, of iteration {best_iteration}, is lost; its score is kept")

    def delete_partial(self) -> None:
        """Delete files that a killed run had not finished."""
        for path in self.folder.glob(f".*{PARTIAL}"):
            path.unlink(missing_ok=True)

    def _candidates(self) -> list[Path]:
        """Return every checkpoint file once, whatever names it has, newest first.

        The order is that of the iterations in the files: a user may have deleted one name and kept another.
        """
        found: dict[tuple[int, int], tuple[float, Path]] = {}
        for path in (*self.list_numbered(), self.last, self.best):
            if path.is_file():
                status = path.stat()
                found.setdefault((status.st_dev, status.st_ino), (_iteration_or_inf(path), path))
        return [path for _, path in sorted(found.values(), key=lambda entry: -entry[0])]


def _iteration_or_inf(path: Path) -> float:
    """Return the iteration in a file's name, or in the file, damaged or not; infinity where it has none."""
    if match := _NAME.fullmatch(path.name):
        return int(match[1])
    iteration = _read_iteration(path)
    return float("inf") if iteration is None else iteration


def _iteration_of(path: Path) -> int | None:
    """Return the iteration of an intact checkpoint; None for a missing or damaged file."""
    if not path.is_file() or digest.find_damage(path, required=True):
        return None
    return _read_iteration(path)


def _read_iteration(path: Path) -> int | None:
    try:
        iteration = read_checkpoint(path, lazy=True, verified=True).rest.get("iteration")
    except RmrkdError:
        return None
    return iteration if isinstance(iteration, int) else None


def _quarantine(path: Path) -> Path:
    """Rename a damaged file out of the way, and return its new path."""
    number, target = 1, path.with_name(path.name + DAMAGED)
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{DAMAGED}{number}")
    os.replace(path, target)
    return target
