"""Read regular files within a size limit: a data set of a stranger can hold pipes and devices, which never end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, without ever waiting for another process.

    Raises:
        OSError: When it cannot be opened or is not a regular file; `strerror` says what it is.
    """
    with open(path, "rb", opener=_open_without_waiting) as stream:
        yield stream


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the contents of a regular file.

    Raises:
        OSError: As `open_regular`, and when the file is larger than `max_bytes`.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(size + 1) if size <= max_bytes else b""
        if len(data) > size:  # the file grows, or is one of those in /proc, whose size is 0
            data += stream.read(max_bytes + 1 - len(data))
    check_size(max(size, len(data)), max_bytes, str(path))
    return data


def check_size(size: int, max_bytes: int, path: str) -> None:
    """Raise OSError if a file is larger than `max_bytes`."""
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"{size} bytes are more than {_format_size(max_bytes)}", path)


def error_reason(error: OSError) -> str:
    """Return the system's own words for an error, without its number and path."""
    return error.strerror or str(error)


def _open_without_waiting(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _format_size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
