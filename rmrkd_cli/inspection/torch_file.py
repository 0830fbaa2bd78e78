"""Files of torch.save, looked through before torch opens them: nothing larger than the file comes out of it."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from rmrkd_cli.inspection.pickled import Malformed, Program, Refused

MOST_BYTES = 8 << 30  # of a file
MOST_PICKLE_BYTES = 16 << 20
_MOST_ENTRIES = 100_000
_SHARED = 2  # how often the bytes of a file may come out as tensors; tied weights lie on one storage
_ZIP = b"PK\x03\x04"  # torch takes any other beginning for the form it wrote before 1.6
_END = b"PK\x05\x06"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first number in that form


def inspect(path: Path) -> None:
    """Follows the file's pickle programs and compares what they ask for with what the file holds.

    Raises:
        Refused: When it would do what no checkpoint needs.
        Malformed: When it is not a file of torch.save.
        OSError: When it cannot be read.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise Refused(f"it has {size / 1e9:.1f} GB, more than {MOST_BYTES >> 30} GiB")
    with path.open("rb") as stream:
        if stream.read(len(_ZIP)) == _ZIP:
            _inspect_archive(stream, size)
        else:
            _inspect_stream(stream, size)


def _inspect_archive(stream: BinaryIO, size: int) -> None:
    """The zip archive that torch writes since 1.6: `NAME/data.pkl`, `NAME/data/KEY` for each storage."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = _entries(archive, size)
            root = next(iter(entries)).split("/")[0]
            held = entries.get(f"{root}/data.pkl")
            if held is None:
                raise Malformed("it holds no `data.pkl`")
            if held.file_size > MOST_PICKLE_BYTES:
                raise Refused(f"its pickle program has {held.file_size:,} bytes, more than {MOST_PICKLE_BYTES:,}")
            program = Program(io.BytesIO(archive.read(held)))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, RuntimeError) as error:
        raise Malformed(f"a damaged archive: {error}") from error
    for key, storage in program.storages.items():
        entry = entries.get(f"{root}/data/{key}")
        if entry is None:
            raise Malformed(f"the storage `{key[:40]}` is missing")
        if entry.file_size != storage.size:
            raise Refused(f"the storage `{key[:40]}` claims {storage.size:,} bytes and has {entry.file_size:,}")
    _check_total(program, size)


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """All entries by name: uncompressed, each once, in one folder, together no larger than the file."""
    listed = archive.infolist()
    if not listed or len(listed) > _MOST_ENTRIES:
        raise Refused(f"it is an archive of {len(listed):,} entries")
    if _END in archive.comment:
        raise Refused("it is an archive with two ends")  # readers may take another one for the end
    entries = {entry.filename: entry for entry in listed}
    if len(entries) < len(listed):
        raise Refused("it is an archive that holds a name twice")
    if min(entry.header_offset for entry in listed) > 0:
        raise Refused("it is an archive behind something else")  # here too
    roots = {name.split("/")[0] for name in entries}
    if any(name.endswith("/constants.pkl") for name in entries):
        raise Refused("it is a TorchScript program")
    for name, entry in entries.items():
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or len(roots) > 1:
            raise Refused(f"it is an archive with the path `{name[:80]}`")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise Refused(f"it is a compressed archive (`{name[:80]}`); torch writes none")
    if sum(entry.file_size for entry in listed) > size:
        raise Refused("it is an archive whose entries are larger than the file")
    return entries


def _inspect_stream(stream: BinaryIO, size: int) -> None:
    """The older form: pickles of a magic number, a version, the system, the contents, the keys; then the storages."""
    stream.seek(0)
    start = io.BytesIO(stream.read(5 * MOST_PICKLE_BYTES))
    try:
        magic = Program(start).value
    except Malformed:
        magic = None
    if magic != _MAGIC:
        raise Malformed("it begins as no file of torch.save does")
    Program(start)
    Program(start)
    begin = start.tell()
    program = Program(start)
    if start.tell() - begin > MOST_PICKLE_BYTES:
        raise Refused(f"its pickle program has more than {MOST_PICKLE_BYTES:,} bytes")
    keys: Any = Program(start).value
    if type(keys) is not list or len(set(map(str, keys))) != len(keys) or set(keys) != set(program.storages):
        raise Malformed("its storages are not those that its contents name")
    needed = sum(8 + storage.size for storage in program.storages.values())
    if needed > size - start.tell():
        raise Refused(f"its storages claim {needed:,} bytes, {size - start.tell():,} are there")
    _check_total(program, size)


def _check_total(program: Program, size: int) -> None:
    total = sum(tensor.size for tensor in program.tensors)
    if total > _SHARED * size:
        raise Refused(f"its tensors would take {total:,} bytes, the file has {size:,}")
