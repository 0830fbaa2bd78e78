"""List the files of a tar archive of a stranger, without extracting any: names, places and sizes.

The standard library's `tarfile` takes 25 µs a header, half a minute for a million. The plain headers that every writer
makes for files with short names are read here; all others, such as extended ones, are left to `tarfile`.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rmrkd_cli.data.list_names import name_problem
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.regular_file import error_reason, open_regular

_BLOCK = tarfile.BLOCKSIZE
_MAX_HEADER_BYTES = 1 << 20  # of an extended header, which `tarfile` would read in whole
_END = bytes(_BLOCK)
_SIZE = re.compile(rb"[0-7]+[ \0]*")
_SIMPLE_NAME = re.compile(r"\w[\w. -]*(?:/\w[\w. -]*)*")  # safe and normalized: no part begins with a dot
_PLAIN_TYPES = (b"0", b"\0")
_COMPRESSED = {
    b"\x1f\x8b": "gunzip FILE",
    b"BZh": "bunzip2 FILE",
    b"\xfd7zXZ": "unxz FILE",
    b"\x28\xb5\x2f\xfd": "unzstd FILE",
}
_FIX = "remove it from the archive, or write the archive again with regular files only"


class Entry(NamedTuple):
    """A regular file in an archive: its name, the offset of its first byte, and its size."""

    name: str
    offset: int
    size: int


class TarError(RmrkdError):
    """A tar file that is damaged, or holds something other than regular files in its own folders."""


def scan_tar(path: Path) -> Iterator[Entry]:
    """Yield the files of an archive in their order; folders are left out.

    Raises:
        TarError: When the archive is damaged or compressed, or an entry is no regular file, has an unsafe name, a size
            beyond the archive, or the name of an earlier one.
    """
    try:
        with open_regular(path) as stream:
            _check_type(path, stream.read(8))
            seen: set[str] = set()
            for entry in _entries(path, stream):
                if entry.name in seen:
                    raise TarError(
                        f"`{path}` contains `{entry.name}` twice", "write the archive again with each file once"
                    )
                seen.add(entry.name)
                yield entry
    except OSError as error:
        raise TarError(f"`{path}` cannot be read: {error_reason(error)}") from error


def _check_type(path: Path, start: bytes) -> None:
    for signature, command in _COMPRESSED.items():
        if start.startswith(signature):
            raise TarError(
                f"`{path}` is compressed: its files cannot be read in random order",
                f"unpack it once: `{command.replace('FILE', str(path))}`; images are compressed already",
            )


def _entries(path: Path, stream: BinaryIO) -> Iterator[Entry]:
    end = os.fstat(stream.fileno()).st_size
    archive: tarfile.TarFile | None = None
    offset, all_extended = 0, False
    while True:
        header = os.pread(stream.fileno(), _BLOCK, offset)
        if header == _END:
            return
        if len(header) < _BLOCK:
            raise TarError(f"`{path}` is incomplete: it ends after {end} bytes, without an end mark", "copy it again")
        entry = None if all_extended else _read_plain(header, offset)
        if entry is None:
            archive = archive or _open(stream)
            entry, offset = _read_extended(path, archive, offset)
            all_extended = bool(archive.pax_headers)  # values for all headers after it
        else:
            offset = entry.offset + _round_up(entry.size)
        if entry is None:
            continue
        if entry.offset + entry.size > end:
            text = f"claims {entry.size} bytes, and the archive has {max(0, end - entry.offset)} after its header"
            raise TarError(f"`{path}`: the entry {entry.name!r} {text}", "copy the archive again")
        if _SIMPLE_NAME.fullmatch(entry.name):
            yield entry
            continue
        if problem := name_problem(entry.name):
            raise TarError(f"`{path}`: the name {entry.name!r} {problem}", _FIX)
        yield entry._replace(name=_normalized(entry.name))


def _read_plain(header: bytes, offset: int) -> Entry | None:
    """Return the file of a header that holds all about it; None for other headers, and for damaged ones."""
    kind, size, checksum = header[156:157], header[124:136], header[148:156]
    if kind not in _PLAIN_TYPES or header[345] or not _SIZE.fullmatch(size):
        return None
    name = header[:100].partition(b"\0")[0]
    if not name or name.endswith(b"/") or header[99]:  # a name of 100 bytes may continue elsewhere
        return None
    try:
        expected = int(checksum.rstrip(b"\0 "), 8)
    except ValueError:
        return None
    if sum(header) - sum(checksum) + 8 * 32 != expected:
        return None
    return Entry(name.decode("utf-8", "surrogateescape"), offset + _BLOCK, int(size.rstrip(b"\0 "), 8))


def _read_extended(path: Path, archive: tarfile.TarFile, offset: int) -> tuple[Entry | None, int]:
    """Return the file of any header, None for a folder, and the offset of the next header."""
    assert archive.fileobj is not None
    archive.fileobj.seek(offset)
    try:
        member = tarfile.TarInfo.fromtarfile(archive)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise TarError(f"`{path}` has a damaged header at byte {offset}: {error}", "copy the archive again") from error
    problem = _type_problem(member)
    if member.size < 0 or archive.offset <= offset:
        problem = "has a negative size"
    if problem:
        raise TarError(f"`{path}`: the entry {member.name!r} {problem}", _FIX)
    if member.isdir():
        return None, archive.offset
    return Entry(member.name, member.offset_data, member.size), archive.offset


def _type_problem(member: tarfile.TarInfo) -> str:
    """Return why an entry is neither a regular file nor a folder."""
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname!r}"
    if member.isdev():
        return "is a pipe" if member.isfifo() else "is a device"
    if member.issparse():
        return "is a sparse file"
    return "" if member.isdir() or member.isreg() else f"is of the unknown type {member.type!r}"


class _BoundedReader:
    """Passes reads on, but none larger than an honest header needs."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {size} bytes is more than {_MAX_HEADER_BYTES}")
        return self._stream.read(size)


def _open(stream: BinaryIO) -> tarfile.TarFile:
    """Return a `TarFile` that reads headers at given places.

    In mode "w" it reads none by itself; nothing is written.
    """
    reader: Any = _BoundedReader(stream)
    return tarfile.TarFile(fileobj=reader, mode="w", encoding="utf-8", errors="surrogateescape")


def _round_up(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _normalized(name: str) -> str:
    """Return a name without `.` and empty parts: `tar` writes `./a.jpg` for a file of the packed folder."""
    return name if "/" not in name else "/".join(part for part in name.split("/") if part not in ("", "."))
