"""Where rmrkd writes: permission, room, locks; and what lies in the cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from rmrkd_cli.doctor.check import Check
from rmrkd_cli.storage.cache import cache_dir

_WORK = "work_dirs"  # where `rmrkd train` writes unless told otherwise
_NO_ROOM = 1 << 30  # bytes: checkpoints of the paper's pairs take a few hundred MB each
_LITTLE_ROOM = 10 << 30
_PROBE = b"rmrkd" * 200_000


def folder_checks() -> Iterator[Check]:
    yield _writable("work folder", Path.cwd() / _WORK, "rmrkd train --work-dir DIR on another disk")
    yield _writable("cache folder", cache_dir(), "RMRKD_CACHE=DIR on another disk")
    mend = "TMPDIR=DIR on another disk"
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        yield Check("temporary files", "wrong", str(error), "a folder that can be written", mend)
    else:
        yield _writable("temporary files", temporary, mend)
    yield from _contents()


def _writable(name: str, folder: Path, mend: str) -> Check:
    """Writes a file there and removes it; a folder that is still to be made is left so."""
    try:
        there = _existing(folder)
        free = shutil.disk_usage(there).free
        locks = _try_writing(there)
    except OSError as error:
        return Check(name, "wrong", f"`{folder}`: {error.strerror or error}", "a folder that can be written", mend)
    found = f"{free / 2**30:.1f} GiB free for `{folder}`"
    if free < _NO_ROOM:
        return Check(name, "wrong", found, f"{_NO_ROOM >> 30} GiB", f"make room, or {mend}")
    if not locks:
        why = "locks, which keep two commands from writing the same files"
        return Check(name, "note", f"{found}; its file system has no locks", why, mend)
    if free < _LITTLE_ROOM:
        return Check(name, "note", found, f"{_LITTLE_ROOM >> 30} GiB for long runs", f"make room, or {mend}")
    return Check(name, "ok", found)


def _existing(folder: Path) -> Path:
    """The folder, or the one above it that is there."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _try_writing(folder: Path) -> bool:
    """Raises OSError when a file cannot be written there; tells whether it could be locked."""
    path = folder / f".rmrkd-doctor-{uuid.uuid4().hex}"
    try:
        with path.open("xb") as stream:
            stream.write(_PROBE)
            stream.flush()
            os.fsync(stream.fileno())
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        return True
    finally:
        path.unlink(missing_ok=True)


def _contents() -> Iterator[Check]:
    cache = cache_dir()
    if not cache.is_dir():
        yield Check("cache", "ok", "empty")
        return
    sizes = {entry.name: _size(Path(entry.path)) for entry in sorted(os.scandir(cache), key=lambda entry: entry.name)}
    parts = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
    yield Check("cache", "ok", f"{sum(sizes.values()) / 1e6:.1f} MB" + (f": {parts}" if parts else ""))
    left = sorted((cache / "checkpoints").glob(".*.partial"))
    if left:
        names = ", ".join(f"`{path.name}` {_size(path) / 1e6:.1f} MB" for path in left)
        expected = "gone on with when it is asked for again"
        yield Check("unfinished downloads", "note", names, expected, f"rm {cache / 'checkpoints'}/.*.partial")


def _size(path: Path) -> int:
    """Bytes that it takes on the disk, with all that is in it; files that go away meanwhile are left out."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size(Path(entry.path)) for entry in os.scandir(path))
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
