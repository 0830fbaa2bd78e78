"""Files of a data set, read within a bound: archives of strangers hold pipes and links to devices, which never end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

_PIECE = 1 << 20  # beyond the size that a file says it has
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@contextmanager
def opened(path: Path) -> Iterator[FileIO]:
    """A regular file, unbuffered; opening it never waits.

    Raises:
        OSError: Also for everything that is no regular file; `strerror` says what it is.
    """
    with FileIO(path, opener=_open) as stream:
        yield stream


def read_regular(path: Path, most: int) -> bytes:
    """All of a regular file.

    Raises:
        OSError: As `opened`, and when it has more than `most` bytes.
    """
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size} bytes are more than {_bytes(most)}", str(path))
        parts, total = [], 0
        while part := stream.read(max(size + 1 - total, _PIECE if total else 1)):  # once more, for its end
            parts.append(part)
            if (total := total + len(part)) > most:
                raise OSError(errno.EFBIG, f"it has more than {_bytes(most)}", str(path))
    return b"".join(parts)  # of one part no copy


def why(error: OSError) -> str:
    return error.strerror or str(error)


def _open(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
