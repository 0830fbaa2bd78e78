"""A file inside an uncompressed tar archive, read in place: nothing is extracted."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rmrkd_cli.storage.regular_file import check_size, open_regular


@dataclass(frozen=True)
class Archive:
    """A tar file as it was when its index was made.

    Attributes:
        mtime_ns: Time of its last change, in nanoseconds.
    """

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True, repr=False)
class TarMember:
    """One file of an archive.

    Attributes:
        name: Its path within the archive.
        offset: Of its first byte in the archive.
        size: In bytes.
    """

    archive: Archive
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive.path}/{self.name}"

    def __repr__(self) -> str:
        return repr(str(self))

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    def resolve(self) -> str:
        """Return a text that no other file has."""
        return f"{self.archive.path.resolve()}/{self.name}"

    def read(self, max_bytes: int) -> bytes:
        """Return the contents.

        Raises:
            OSError: When the archive cannot be read or has changed, or the member is larger than `max_bytes`.
        """
        check_size(self.size, max_bytes, str(self))
        with open_regular(self.archive.path) as stream:
            status = os.fstat(stream.fileno())
            if (status.st_size, status.st_mtime_ns) != (self.archive.size, self.archive.mtime_ns):
                raise OSError(errno.ESTALE, "its archive was changed; start the command again", str(self.archive.path))
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) < self.size:
            raise OSError(errno.EIO, "its archive ends before it does", str(self.archive.path))
        return data
