"""A file of a data set: in a folder, or inside a tar archive."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rmrkd_cli.storage.regular_file import open_regular, read_regular
from rmrkd_cli.storage.tar_member import TarMember

SourceFile = Path | TarMember


def read_source(file: SourceFile, max_bytes: int) -> bytes:
    """Return the contents of a file.

    Raises:
        OSError: As `read_regular`, and when an archive has changed.
    """
    return file.read(max_bytes) if isinstance(file, TarMember) else read_regular(file, max_bytes)


def file_bytes(file: SourceFile) -> int:
    """Return the size of a file. Raises OSError."""
    return file.size if isinstance(file, TarMember) else os.stat(file).st_size


def file_stamp(file: SourceFile) -> tuple[int, ...]:
    """Return size, times and inode of a file, and for one in an archive its place there. Raises OSError."""
    if isinstance(file, TarMember):
        return (*file_stamp(file.archive.path), file.offset, file.size)
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@contextmanager
def open_source(file: SourceFile, max_bytes: int) -> Iterator[BinaryIO]:
    """Open a file for reading. Raises OSError as `read_source`; `max_bytes` is the limit inside archives."""
    if isinstance(file, TarMember):
        yield io.BytesIO(file.read(max_bytes))
        return
    with open_regular(file) as stream:
        yield stream
