"""`disk`: the disk is full when a checkpoint is written."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.endurance.commands import Command, TrialFailed
from tests.endurance.damage import copy_linked
from tests.endurance.ends import load
from tests.endurance.reference import BASELINE
from tests.endurance.trial import NotPossible, Trial
from tests.endurance.watch import leftovers

_SIZES = 3  # disk sizes in a trial
_CHECKPOINTS = (1.2, 3.5)  # that fit on the disk; a run needs up to four at once


def disk(trial: Trial) -> None:
    """The run names the file that did not fit and leaves no incomplete file; on a larger disk it resumes."""
    reference = trial.references.of(BASELINE)
    for number in range(_SIZES):
        capacity = trial.rng.uniform(*_CHECKPOINTS)
        larger = trial.folder / f"larger{number}"
        with _small_disk(int(capacity * reference.checkpoint_size)) as place:
            command = trial.start(BASELINE, place)
            command.wait()
            copy_linked(place, larger)  # before the checks, so that a failed trial keeps it
            command.expect(1)
            _check(command, place / BASELINE.role)
        trial.events.append(f"room for {int(capacity)}")
        trial.finish(BASELINE, reference, larger)


def _check(command: Command, run_dir: Path) -> None:
    if not re.search(re.escape(str(run_dir)) + r"/[\w.]+", command.message()):
        raise TrialFailed(f"the message names no file: {command.last_lines()}")
    remaining = leftovers(run_dir)
    if remaining:
        raise TrialFailed(f"{', '.join(remaining)} left on the full disk")
    for path in run_dir.glob("*.pth"):
        try:
            load(path)
        except Exception as error:
            raise TrialFailed(f"{path.name} on the full disk cannot be read: {error}") from error


@contextmanager
def _small_disk(size: int) -> Iterator[Path]:
    """Mount a file system in memory, and yield its folder."""
    if shutil.which("mount") is None:
        raise NotPossible("there is no `mount`")
    place = Path(tempfile.mkdtemp(prefix="rmrkd-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        place.rmdir()
        raise NotPossible(mounted.stderr.strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()
