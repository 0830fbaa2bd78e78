"""The checkpoint files of one run: written, kept, and found again."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rmrkd_cli.checkpoints import digest
from rmrkd_cli.checkpoints.reader import read_checkpoint, save_torch
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.atomic import PARTIAL, link_or_copy

_NAME = re.compile(r"iter_(\d+)\.pth")
DAMAGED = ".damaged"  # is added to the name of a file that was set aside


class RunCheckpoints:
    """`iter_N.pth`, `last.pth` and `best.pth` in a run's directory.

    `last.pth` and `best.pth` are second names of one of the others, or copies where there are no hard links.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.pth"
        self.best = folder / "best.pth"

    def numbered(self) -> list[Path]:
        """`iter_N.pth`, newest first."""
        found = [(int(m[1]), p) for p in self.folder.glob("iter_*.pth") if (m := _NAME.fullmatch(p.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def save(self, contents: Mapping[str, Any], iteration: int, *, best: bool, keep: int) -> None:
        """Writes `iter_N.pth`, points `last.pth` (and `best.pth`) at it, then drops the oldest beyond `keep`.

        Nothing is deleted before the newer file is known to be good (`save_torch` reads it again).

        Raises:
            RunError: When it cannot be written, or is not what was written when it is read again.
        """
        path = self.folder / f"iter_{iteration}.pth"
        save_torch(contents, path)
        link_or_copy(path, self.last)
        if best:
            link_or_copy(path, self.best)
        for old in self.numbered()[keep:]:
            old.unlink()

    def latest_valid(self, say: Callable[[str], None]) -> Path | None:
        """The file to resume from; none where nothing was saved yet.

        Damaged files that are newer are reported and set aside, so that they count neither as checkpoints to keep nor
        as ones to load.

        Raises:
            RmrkdError: When there are checkpoints and none is whole.
        """
        path, harmed = self._newest_whole()
        for bad, why in harmed:
            say(f"`{bad}` is damaged ({why}): set aside as `{_quarantine(bad).name}`; going on from `{path}`")
        return path

    def probe(self) -> None:
        """Looks into the file that `newest_good` will choose, before anything is built for it; changes nothing.

        Raises:
            RmrkdError: As `newest_good`, or when that file is whole and still no run's checkpoint.
        """
        path, _ = self._newest_whole()
        if path is not None and read_checkpoint(path, lazy=True, verified=True).kind != "run":
            raise RmrkdError(f"`{path}` is not a run's checkpoint", "--fresh moves this run aside and starts again")

    def _newest_whole(self) -> tuple[Path | None, list[tuple[Path, str]]]:
        """That file, and the damaged ones that are newer, each with what is wrong."""
        harmed: list[tuple[Path, str]] = []
        for path in self._candidates():
            harm = digest.damage(path, required=True)
            if not harm:
                return path, harmed
            harmed.append((path, harm))
        if harmed:
            lines = "\n".join(f"  {path.name}: {why}" for path, why in harmed)
            raise RmrkdError(
                f"no checkpoint in `{self.folder}` can be used:\n{lines}",
                "--fresh moves this run aside and starts again",
            )
        return None, harmed

    def repair_names(self, source: Path, best_iteration: int, say: Callable[[str], None]) -> None:
        """Makes `last.pth` and `best.pth` what they were when `source` was written.

        A kill can come between a checkpoint and its second names.

        Args:
            source: The checkpoint that is resumed from.
            best_iteration: That of the best score so far, 0 where there was none.
        """
        if not (self.last.exists() and self.last.samefile(source)):
            link_or_copy(source, self.last)
        if not best_iteration or _iteration_of(self.best) == best_iteration:
            return
        kept = self.folder / f"iter_{best_iteration}.pth"
        if _iteration_of(kept) == best_iteration:
            link_or_copy(kept, self.best)
            return
        if self.best.exists() and digest.damage(self.best, required=True):
            _quarantine(self.best)
        say(f"`{self.best}` of iteration {best_iteration} is lost; its score is remembered")

    def room_needed(self, weights: Mapping[str, Tensor], keep: int) -> int:
        """Bytes that are still missing on the disk for as many files as a run holds at a time; 0 where they are there.

        Args:
            weights: Of one checkpoint; momentum takes as much once more.
        """
        size = sum(value.numel() * value.element_size() for value in weights.values())
        held = sum({path.stat().st_ino: path.stat().st_size for path in self.folder.glob("*.pth")}.values())
        return max(0, 2 * size * (keep + 2) - held - shutil.disk_usage(self.folder).free)  # the best, and a new one

    def clear_partial(self) -> None:
        """Removes what a killed run was about to write."""
        for path in self.folder.glob(f".*{PARTIAL}"):
            path.unlink(missing_ok=True)

    def _candidates(self) -> list[Path]:
        """Newest first, each file once whatever names it has.

        Ordered by the iteration a file claims: somebody may have deleted a name and kept another.
        """
        found: dict[tuple[int, int], tuple[float, Path]] = {}
        for path in (*self.numbered(), self.last, self.best):
            if path.is_file():
                status = path.stat()
                found.setdefault((status.st_dev, status.st_ino), (_claimed(path), path))
        return [path for _, path in sorted(found.values(), key=lambda entry: -entry[0])]


def _claimed(path: Path) -> float:
    """The iteration in a file's name; else the one it says, damaged or not; where it says none it comes first."""
    if match := _NAME.fullmatch(path.name):
        return int(match[1])
    told = _told_iteration(path)
    return float("inf") if told is None else told


def _iteration_of(path: Path) -> int | None:
    """The iteration a whole checkpoint was written at; none for a missing or damaged file."""
    if not path.is_file() or digest.damage(path, required=True):
        return None
    return _told_iteration(path)


def _told_iteration(path: Path) -> int | None:
    try:
        told = read_checkpoint(path, lazy=True, verified=True).rest.get("iteration")
    except RmrkdError:
        return None
    return told if isinstance(told, int) else None


def _quarantine(path: Path) -> Path:
    number, target = 1, path.with_name(path.name + DAMAGED)
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{DAMAGED}{number}")
    os.replace(path, target)
    return target
