"""Claim numbered pieces of work, so that several processes share them.

The system drops the claims of a process that ends, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

_TAKEN = (errno.EACCES, errno.EAGAIN)


class Claims:
    """Claims of one process on numbers, as locks on the bytes of a file that all processes open.

    On a file system without locks every claim is granted: then two processes may do the same work.

    Args:
        path: Is created if it does not exist; it stays empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Claims:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self._file)  # drops all claims

    def take(self, number: int) -> bool:
        """Claim a number; return False if another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            return error.errno not in _TAKEN
        return True

    def give_back(self, number: int) -> None:
        """Let other processes claim a number."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
        except OSError as error:
            if error.errno in _TAKEN:
                raise
