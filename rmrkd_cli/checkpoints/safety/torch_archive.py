"""Files of torch.save, looked through before torch opens them: nothing larger than the file comes out of it."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from rmrkd_cli.checkpoints.digest import COMMENT_BYTES, stored_digest
from rmrkd_cli.checkpoints.safety.pickle_scan import Malformed, Program, Refused

MOST_BYTES = 8 << 30  # of a file
MOST_PICKLE_BYTES = 16 << 20
_MOST_ENTRIES = 100_000
_SHARED = 2  # how often the bytes of a file may come out as tensors; tied weights lie on one storage
_ZIP = b"PK\x03\x04"  # torch takes any other beginning for the form it wrote before 1.6
_END_MARK, _END = b"PK\x05\x06", struct.Struct("<4s4H2LH")  # the end record of a zip archive,
_LOCATOR_MARK, _LOCATOR = b"PK\x06\x07", struct.Struct("<4sLQL")  # what points to that of a large one,
_END64_MARK, _END64 = b"PK\x06\x06", struct.Struct("<4sQ2H2L4Q")  # and that one
_TAIL = _END.size + _LOCATOR.size + _END64.size + COMMENT_BYTES
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
        _check_end(stream, size)
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


def _check_end(stream: BinaryIO, size: int) -> None:
    """The archive's directory must lie where every reader looks for it, whichever way: right before the one end.

    Python goes by the distance from the end, torch by the offset that is written there.
    """
    stream.seek(max(0, size - _TAIL))
    tail = stream.read(_TAIL)
    for comment in (0, COMMENT_BYTES):
        end = size - _END.size - comment
        record = tail[len(tail) - _END.size - comment :][: _END.size]
        if len(record) == _END.size and record.startswith(_END_MARK):
            break
    else:
        raise Malformed("an archive that is cut, or has a comment")
    _, disk, first, dist_ctx, count, length, offset, told = _END.unpack(record)
    if told != comment or (comment and not stored_digest(tail[-comment:])):
        raise Refused("it is an archive with a comment")
    locator = tail[: len(tail) - _END.size - comment][-_LOCATOR.size :]
    if locator.startswith(_LOCATOR_MARK):
        _, where_disk, where, disks = _LOCATOR.unpack(locator)
        end -= _LOCATOR.size + _END64.size
        record = tail[len(tail) - (size - end) :][: _END64.size]
        mark, rest, _, _, disk64, first64, here64, count64, length64, offset64 = _END64.unpack(record)
        short = [(count, count64, 0xFFFF), (length, length64, 0xFFFFFFFF), (offset, offset64, 0xFFFFFFFF)]
        if (
            mark != _END64_MARK or where != end or rest != _END64.size - 12 or here64 != count64
            or (where_disk, disk64, first64) != (0, 0, 0) or disks > 1
            or any(old not in (new, unset) for old, new, unset in short)
        ):  # fmt: skip
            raise Refused("it is an archive with two ends")
        count, length, offset = count64, length64, offset64
    elif dist_ctx != count:
        raise Refused("it is an archive with two ends")
    if (disk, first) not in ((0, 0), (0xFFFF, 0xFFFF)) or offset + length != end:
        raise Refused("it is an archive with two ends")
    if count > _MOST_ENTRIES or length > MOST_PICKLE_BYTES:
        raise Refused(f"it is an archive of {count:,} entries")


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """All entries by name: uncompressed, each once, in one folder, together no larger than the file."""
    listed = archive.infolist()
    if not listed:
        raise Malformed("an archive without entries")
    entries = {entry.filename: entry for entry in listed}
    if len({name.lower() for name in entries}) < len(listed):  # torch's reader does not mind the case
        raise Refused("it is an archive that holds a name twice")
    if not any(name.lower().endswith("/data.pkl") for name in entries):
        raise Malformed("an archive without `data.pkl`")
    if min(entry.header_offset for entry in listed) > 0:
        raise Refused("it is an archive behind something else")
    if any(name.endswith("/constants.pkl") for name in entries):
        raise Refused("it is a TorchScript program")
    roots = {name.split("/")[0] for name in entries}
    for name, entry in entries.items():
        odd = not name.isascii() or not name.isprintable() or entry.orig_filename != name
        if odd or name.startswith("/") or ".." in name.split("/") or "\\" in name or len(roots) > 1:
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
    if type(keys) is not list or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
        raise Malformed("its storages have no names")
    if set(keys) != set(program.storages):
        raise Malformed("its storages are not those that its contents name")
    needed = sum(8 + storage.size for storage in program.storages.values())
    if needed > size - start.tell():
        raise Refused(f"its storages claim {needed:,} bytes, {size - start.tell():,} are there")
    _check_total(program, size)


def _check_total(program: Program, size: int) -> None:
    total = sum(tensor.size for tensor in program.tensors)
    if total > _SHARED * size:
        raise Refused(f"its tensors would take {total:,} bytes, the file has {size:,}")
