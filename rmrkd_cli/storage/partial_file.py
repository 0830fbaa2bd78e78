"""A file that is still being filled: beside its place, written by one process at a time, kept for the next attempt."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rmrkd_cli.errors import RunError

HOLDER_SECONDS = 120.0  # that the file of another process may stay as it is before it counts as hung
_POLL_SECONDS = 0.1
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ELSEWHERE = "RMRKD_CACHE=DIR names another folder for the cache"


class Partial:
    """An open file that no other process writes.

    Args:
        kept: Another attempt finds it again by its name; otherwise the name is this process's own.
    """

    def __init__(self, path: Path, handle: int, *, kept: bool) -> None:
        self.path, self.kept = path, kept
        self._handle = handle

    @property
    def size(self) -> int:
        return os.fstat(self._handle).st_size

    def begin_at(self, size: int, needed: int) -> None:
        """Forgets what lies beyond `size` bytes, and writes from there.

        Raises:
            RunError: With both sizes, when the disk has no room for the `needed` further bytes.
        """
        os.ftruncate(self._handle, size)
        os.lseek(self._handle, size, os.SEEK_SET)
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise RunError(
                f"`{self.path.parent}` has {free / 1e6:.1f} MB free, and the file takes {needed / 1e6:.1f} MB more",
                f"make room there, or {_ELSEWHERE}",
            )

    def write(self, chunk: bytes) -> None:
        """Raises RunError when the disk takes no more; a full one gets its room back."""
        left = memoryview(chunk)
        try:
            while left:
                left = left[os.write(self._handle, left) :]
        except OSError as error:
            if error.errno in _FULL:
                os.ftruncate(self._handle, 0)
            raise cannot_write(self.path.parent, error) from error

    def sha256(self) -> str:
        """Hex digest of all that is there."""
        digest, offset = hashlib.sha256(), 0
        while chunk := os.pread(self._handle, _CHUNK, offset):
            digest.update(chunk)
            offset += len(chunk)
        return digest.hexdigest()

    def place(self, target: Path) -> None:
        """Gives the file its name, after all of it is on the disk."""
        os.fsync(self._handle)
        os.replace(self.path, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # not every file system syncs folders
                os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves behind what another attempt can go on with, and nothing else."""
        if self._is_there() and not (self.kept and self.size):
            self.remove()
        os.close(self._handle)

    def _is_there(self) -> bool:
        """Whether the name is still the open file's."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._handle))


@contextmanager
def partial_for(target: Path, tag: str) -> Iterator[Partial | None]:
    """Waits until no other process fills the same file.

    Args:
        tag: Tells files of the same name and different contents apart.

    Yields:
        What an earlier attempt left, or an empty file; none when the target is there by now.

    Raises:
        OSError: When nothing can be written beside the target.
    """
    partial = _claim(target, tag)
    try:
        yield partial
    finally:
        if partial is not None:
            partial.close()


def cannot_write(folder: Path, error: OSError) -> RunError:
    return RunError(f"cannot write into the cache `{folder}`: {error.strerror or error}", _ELSEWHERE)


def _claim(target: Path, tag: str) -> Partial | None:
    """The lock is on the file itself, so that it ends with its holder and leaves nothing."""
    path = target.with_name(f".{target.name}.{tag}.partial")
    others = _Others(target.name)
    while not os.path.lexists(target):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except PermissionError:  # another user's, in a folder for several
            return _own(path)
        partial = Partial(path, handle, kept=True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            size = partial.size
            os.close(handle)
            if not isinstance(error, BlockingIOError) or others.hang(size):  # or a file system without locks
                return _own(path)
            continue
        if partial._is_there() and not os.path.lexists(target):
            return partial
        partial.close()  # renamed or removed by another process between opening and locking
    return None


def _own(path: Path) -> Partial:
    mine = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    return Partial(mine, os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), kept=False)


class _Others:
    """Waits a little, each time that another process is met."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._size = -1
        self._since = time.monotonic()
        self._said = False

    def hang(self, size: int) -> bool:
        """Whether the other's file has had the same size for too long; says once that it is waited for."""
        if not self._said:
            from rmrkd_cli.terminal.console import say

            say(f"another process is downloading {self._name}; waiting for it")
            self._said = True
        if size != self._size:
            self._size, self._since = size, time.monotonic()
        time.sleep(_POLL_SECONDS)
        return time.monotonic() - self._since > HOLDER_SECONDS
