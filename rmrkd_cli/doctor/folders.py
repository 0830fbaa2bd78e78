"""Check the folders that rmrkd writes to: permission, free space, file locks; and report the cache's size."""

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

_WORK_DIR = "work_dirs"  # default of `rmrkd train --work-dir`
_ERROR_BELOW = 1 << 30  # bytes; the checkpoints of one run take up to a few GB
_WARNING_BELOW = 10 << 30


def folder_checks() -> Iterator[Check]:
    yield _check_folder("work folder", Path.cwd() / _WORK_DIR, "rmrkd train --work-dir DIR on another disk")
    yield _check_folder("cache folder", cache_dir(), "RMRKD_CACHE=DIR on another disk")
    fix = "TMPDIR=DIR on another disk"
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        yield Check("temporary files", "error", str(error), "a writable folder", fix)
    else:
        yield _check_folder("temporary files", temporary, fix)
    yield from _check_cache()


def _check_folder(name: str, folder: Path, fix: str) -> Check:
    """Write a file into the folder, or into its nearest existing parent, lock it and delete it."""
    try:
        existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        free = shutil.disk_usage(existing).free
        has_locks = _write_and_lock(existing)
    except OSError as error:
        return Check(name, "error", f"`{folder}`: {error.strerror or error}", "a writable folder", fix)
    found = f"{free / 2**30:.1f} GiB free for `{folder}`"
    if free < _ERROR_BELOW:
        return Check(name, "error", found, f"{_ERROR_BELOW >> 30} GiB", f"free some space, or {fix}")
    if not has_locks:
        expected = "file locks, which keep two commands from writing the same files"
        return Check(name, "warning", f"{found}; its file system has no file locks", expected, fix)
    if free < _WARNING_BELOW:
        return Check(name, "warning", found, f"{_WARNING_BELOW >> 30} GiB for long runs", f"free some space, or {fix}")
    return Check(name, "ok", found)


def _write_and_lock(folder: Path) -> bool:
    """Return whether a file in the folder can be locked. Raises OSError when it cannot be written."""
    path = folder / f".rmrkd-doctor-{uuid.uuid4().hex}"
    try:
        with path.open("xb") as stream:
            stream.write(bytes(1 << 20))
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


def _check_cache() -> Iterator[Check]:
    cache = cache_dir()
    if not cache.is_dir():
        yield Check("cache", "ok", "empty")
        return
    sizes = {path.name: _disk_size(path) for path in sorted(cache.iterdir())}
    parts = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
    yield Check("cache", "ok", f"{sum(sizes.values()) / 1e6:.1f} MB" + (f": {parts}" if parts else ""))
    partial = sorted((cache / "checkpoints").glob(".*.partial"))
    if partial:
        names = ", ".join(f"`{path.name}` {_disk_size(path) / 1e6:.1f} MB" for path in partial)
        fix = f"rm {cache / 'checkpoints'}/.*.partial"
        yield Check("unfinished downloads", "warning", names, "none, or resumed by the next command", fix)


def _disk_size(path: Path) -> int:
    """Return the bytes that a file or folder takes on the disk; 0 for what is deleted meanwhile."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(map(_disk_size, path.iterdir()))
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
