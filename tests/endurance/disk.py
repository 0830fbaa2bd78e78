"""`disk`: the disk is full when a checkpoint is written."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.endurance.commands import Command, Failed
from tests.endurance.damage import copy_linked
from tests.endurance.ends import load
from tests.endurance.reference import BASELINE
from tests.endurance.trial import Impossible, Trial
from tests.endurance.watch import leftovers

_SIZES = 3  # a trial
_CHECKPOINTS = (1.2, 3.5)  # that the disk has room for; a run needs four at its worst moment


def disk(trial: Trial) -> None:
    """The run says which file did not fit and leaves no half of one; with more room it goes on."""
    reference = trial.references.of(BASELINE)
    for number in range(_SIZES):
        room = trial.draw.uniform(*_CHECKPOINTS)
        larger = trial.room / f"larger{number}"
        with _small_disk(int(room * reference.checkpoint_size)) as place:
            command = trial.start(BASELINE, place)
            command.wait()
            copy_linked(place, larger)  # before it is judged, so that a failing trial keeps it
            command.expect(1)
            _check(command, place / BASELINE.role)
        trial.hits.append(f"room for {int(room)}")
        trial.finish(BASELINE, reference, larger)


def _check(command: Command, run_dir: Path) -> None:
    if not re.search(re.escape(str(run_dir)) + r"/[\w.]+", command.message()):
        raise Failed(f"the message names no file: {command.last_words()}")
    left = leftovers(run_dir)
    if left:
        raise Failed(f"{', '.join(left)} left on the full disk")
    for path in run_dir.glob("*.pth"):
        try:
            load(path)
        except Exception as error:
            raise Failed(f"{path.name} on the full disk cannot be read: {error}") from error


@contextmanager
def _small_disk(size: int) -> Iterator[Path]:
    """A file system in memory."""
    if shutil.which("mount") is None:
        raise Impossible("there is no `mount`")
    place = Path(tempfile.mkdtemp(prefix="rmrkd-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        place.rmdir()
        raise Impossible(mounted.stderr.strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()
