"""`damage`: the newest checkpoint is damaged, and the run resumes from the one before it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.endurance.commands import TrialFailed
from tests.endurance.reference import BASELINE
from tests.endurance.trial import Trial
from tests.endurance.watch import checkpoints

Damage = Callable[[bytearray, random.Random], bytes | bytearray]


def damage(trial: Trial) -> None:
    """Apply each kind of damage in turn; the message must name the damaged file and the one that is used."""
    reference, stopped = trial.references.of(BASELINE), trial.references.stopped()
    run_dir = trial.folder / "work" / BASELINE.role
    copy_linked(stopped.run_dir, run_dir)
    *_, previous, newest = checkpoints(run_dir)
    kind = list(KINDS)[trial.number % len(KINDS)]
    original = newest.read_bytes()
    damaged = KINDS[kind](bytearray(original), trial.rng)
    trial.events.append(kind)
    pairs = zip(original, damaged, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), len(damaged))
    trial.notes["damaged"] = f"from byte {same} of {len(original)}"
    with newest.open("rb+") as stream:  # in place, so that `last.pth` is the same damaged file
        stream.truncate(0)
        stream.write(damaged)
    message = trial.finish(BASELINE, reference).message()
    unnamed = [path.name for path in (newest, previous) if path.name not in message]
    if unnamed:
        raise TrialFailed(f"{kind}: the message does not name {' and '.join(unnamed)}")


def copy_linked(source: Path, target: Path) -> None:
    """Copy a run directory; hard links stay hard links."""
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


def _head(contents: bytearray, rng: random.Random) -> bytearray:
    contents[:64] = rng.randbytes(64)
    return contents


def _middle(contents: bytearray, rng: random.Random) -> bytearray:
    return _flip(contents, rng.randrange(len(contents) // 3, 2 * len(contents) // 3), rng)


def _anywhere(contents: bytearray, rng: random.Random) -> bytearray:
    """Flip a bit, in half of the cases near the end, where an archive has its table of contents."""
    from_end = rng.choice((100, len(contents)))
    return _flip(contents, len(contents) - 1 - rng.randrange(from_end), rng)


def _flip(contents: bytearray, at: int, rng: random.Random) -> bytearray:
    contents[at] ^= 1 << rng.randrange(8)
    return contents


KINDS: dict[str, Damage] = {
    "head": _head,
    "bit in the middle": _middle,
    "tail cut": lambda contents, rng: contents[: -rng.randint(1, 1000)],
    "half cut": lambda contents, rng: contents[: len(contents) // 2],
    "bit anywhere": _anywhere,
    "empty": lambda contents, rng: b"",
}
