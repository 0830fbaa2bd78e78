"""`damage`: the newest checkpoint is not what was written, and the run goes on from the one before it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.endurance.commands import Failed
from tests.endurance.reference import BASELINE
from tests.endurance.trial import Trial
from tests.endurance.watch import checkpoints

Damage = Callable[[bytearray, random.Random], bytes | bytearray]


def damage(trial: Trial) -> None:
    """Each kind of damage in turn; the message names the damaged file and the one that was taken."""
    reference, stopped = trial.references.of(BASELINE), trial.references.stopped()
    run_dir = trial.room / "work" / BASELINE.role
    copy_linked(stopped.run_dir, run_dir)
    *_, previous, newest = checkpoints(run_dir)
    kind = list(KINDS)[trial.number % len(KINDS)]
    whole = newest.read_bytes()
    damaged = KINDS[kind](bytearray(whole), trial.draw)
    trial.hits.append(kind)
    pairs = zip(whole, damaged, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), len(damaged))
    trial.notes["damaged"] = f"from byte {same} of {len(whole)}"
    with newest.open("rb+") as stream:  # in place, so that `last.pth` is the same damaged file
        stream.truncate(0)
        stream.write(damaged)
    said = trial.finish(BASELINE, reference).message()
    unnamed = [path.name for path in (newest, previous) if path.name not in said]
    if unnamed:
        raise Failed(f"{kind}: the message does not name {' and '.join(unnamed)}")


def copy_linked(source: Path, target: Path) -> None:
    """Copies a run's directory; files with two names stay one file."""
    copies: dict[int, Path] = {}
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        inode = path.stat().st_ino
        if inode in copies:
            os.link(copies[inode], copy)
        else:
            shutil.copy2(path, copy)
            copies[inode] = copy


def _head(contents: bytearray, draw: random.Random) -> bytearray:
    contents[:64] = draw.randbytes(64)
    return contents


def _middle(contents: bytearray, draw: random.Random) -> bytearray:
    return _flip(contents, draw.randrange(len(contents) // 3, 2 * len(contents) // 3), draw)


def _anywhere(contents: bytearray, draw: random.Random) -> bytearray:
    """In half of the cases at the very end, where an archive keeps its table of contents."""
    from_end = draw.choice((100, len(contents)))
    return _flip(contents, len(contents) - 1 - draw.randrange(from_end), draw)


def _flip(contents: bytearray, at: int, draw: random.Random) -> bytearray:
    contents[at] ^= 1 << draw.randrange(8)
    return contents


KINDS: dict[str, Damage] = {
    "head": _head,
    "bit in the middle": _middle,
    "tail cut": lambda contents, draw: contents[: -draw.randint(1, 1000)],
    "half cut": lambda contents, draw: contents[: len(contents) // 2],
    "bit anywhere": _anywhere,
    "empty": lambda contents, draw: b"",
}
