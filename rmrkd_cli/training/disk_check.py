"""Check before training that the checkpoints of all runs fit on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.messages import warn
from rmrkd_cli.training.network_check import Outlines
from rmrkd_cli.training.plan import Run


def check_disk_space(runs: Iterable[Run], outlines: Outlines, *, fresh: bool) -> None:
    """Check the space for all runs that are left to train; print a warning if it may not be enough.

    Args:
        fresh: Existing runs are renamed, so their files still take space.

    Raises:
        RmrkdError: When not even one checkpoint of each run and its student fit.
    """
    disks: dict[int, _Disk] = {}
    for run in runs:
        folder = _existing(run.run_dir.path)
        disk = disks.setdefault(folder.stat().st_dev, _Disk(folder))
        size, schedule = outlines.trained_bytes(run.role), run.preset.schedule_for(run.role)
        existing = [] if fresh else list(run.run_dir.path.glob("*.pth"))
        used = sum({file.stat().st_ino: file.stat().st_size for file in existing}.values())
        # A checkpoint holds the weights and as much momentum, or twice as much state of AdamW; `best.pth` and the next
        # one come on top of `keep`.
        checkpoint = (3 if schedule.optimizer.type == "AdamW" else 2) * size
        disk.least += max(0, checkpoint + size - used)
        disk.most += max(0, checkpoint * (schedule.keep + 2) + size - used)
    for disk in disks.values():
        disk.check()


@dataclass
class _Disk:
    """A file system, and the bytes that the runs write to it."""

    folder: Path
    least: int = 0
    most: int = 0

    def check(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if self.least > free:
            raise RmrkdError(
                f"`{self.folder}` has {free / 1e9:.2f} GB free, the checkpoints of all runs need at least "
                f"{self.least / 1e9:.2f} GB",
                "free some space, or write to another disk with --work-dir DIR",
            )
        if self.most > free:
            warn(
                f"`{self.folder}` has {free / 1e9:.2f} GB free, the checkpoints of all runs can take "
                f"{self.most / 1e9:.2f} GB: the run stops when the disk is full; --keep 1 needs less"
            )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest parent that exists."""
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
