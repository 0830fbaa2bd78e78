"""Check a file of torch.save before torch opens it: loading it may take no more memory than the file has bytes."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from rmrkd_cli.checkpoints.digest import COMMENT_BYTES, is_digest_comment
from rmrkd_cli.checkpoints.safety.pickle_scan import PickleScan
from rmrkd_cli.checkpoints.safety.placeholders import MalformedFileError, UnsafeFileError

MAX_BYTES = 8 << 30  # of a file
MAX_PICKLE_BYTES = 64 << 20  # mmengine's `message_hub` takes tens of megabytes in a long training
MAX_HEADER_BYTES = 16 << 20  # of an archive's directory, of safetensors, and of a pickle before torch 1.6
_MODULES = b"ctorch.nn.modules."  # a pickle that names torch's layers holds a whole network
_MAX_ENTRIES = 100_000
_MAX_SHARING = 2  # bytes of tensors for each byte of the file: tied weights share one storage
_ZIP = b"PK\x03\x04"  # torch reads any other start as the format before 1.6
# Records at the end of a zip archive: its end; for a large archive also a locator, which points to a second end record.
_END_MARK, _END = b"PK\x05\x06", struct.Struct("<4s4H2LH")
_LOCATOR_MARK, _LOCATOR = b"PK\x06\x07", struct.Struct("<4sLQL")
_END64_MARK, _END64 = b"PK\x06\x06", struct.Struct("<4sQ2H2L4Q")
_TAIL = _END.size + _LOCATOR.size + _END64.size + COMMENT_BYTES
_MAX_COMMENT_BYTES = 0xFFFF  # of any zip archive
_TWO_ENDS = "it is an archive with two ends"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first number in the format before 1.6


class PickledModuleError(UnsafeFileError):
    """The file holds a network as a Python object, not its state dict."""


class TorchScriptError(UnsafeFileError):
    """The file is a TorchScript program."""


def check_torch_file(path: Path) -> None:
    """Follow the file's pickle programs, and compare what they ask for with what the file holds.

    Raises:
        UnsafeFileError: It asks for something that no checkpoint needs.
        MalformedFileError: It is not a file of torch.save.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnsafeFileError(f"it has {size / 1e9:.1f} GB, more than {MAX_BYTES >> 30} GiB")
    with path.open("rb") as stream:
        if stream.read(len(_ZIP)) == _ZIP:
            _check_archive(stream, size)
        else:
            _check_legacy(stream, size)


def directory_bytes(stream: BinaryIO) -> int:
    """Return the size of a zip archive's directory, in bytes, as its end says; 0 without an end.

    zipfile reads a whole directory when it opens an archive, at a rate of 100,000 entries in a second.
    """
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL - _MAX_COMMENT_BYTES))
    tail = stream.read()
    at = tail.rfind(_END_MARK)
    if not 0 <= at <= len(tail) - _END.size:
        return 0
    at64 = at - _LOCATOR.size - _END64.size
    if at64 >= 0 and tail.startswith(_LOCATOR_MARK, at - _LOCATOR.size) and tail.startswith(_END64_MARK, at64):
        return int(_END64.unpack_from(tail, at64)[8])
    return int(_END.unpack_from(tail, at)[5])


def _check_archive(stream: BinaryIO, size: int) -> None:
    """Check a zip archive, torch's format since 1.6: `NAME/data.pkl`, and `NAME/data/KEY` for each storage."""
    try:
        _check_end(stream, size)
        with zipfile.ZipFile(stream) as archive:
            entries = _entries(archive, size)
            root = next(iter(entries)).split("/")[0]
            pickled = entries.get(f"{root}/data.pkl")
            if pickled is None:
                raise MalformedFileError("it has no `data.pkl`")
            if pickled.file_size > MAX_PICKLE_BYTES:
                raise UnsafeFileError(
                    f"its pickle program has {pickled.file_size:,} bytes, more than {MAX_PICKLE_BYTES:,}"
                )
            scan = _scan(io.BytesIO(archive.read(pickled)))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, RuntimeError) as error:
        raise MalformedFileError(f"its archive is damaged: {error}") from error
    for key, storage in scan.storages.items():
        entry = entries.get(f"{root}/data/{key}")
        if entry is None:
            raise MalformedFileError(f"the storage `{key[:40]}` is missing")
        if entry.file_size != storage.size:
            raise UnsafeFileError(f"the storage `{key[:40]}` claims {storage.size:,} bytes and has {entry.file_size:,}")
    _check_total(scan, size)


def _scan(stream: io.BytesIO) -> PickleScan:
    """Follow the next pickle program.

    Raises:
        PickledModuleError: It is unsafe because it holds a network with its layers.
        UnsafeFileError: It does what no checkpoint needs.
    """
    try:
        return PickleScan(stream)
    except UnsafeFileError as error:
        if _MODULES in stream.getvalue():
            raise PickledModuleError(str(error)) from error
        raise


def _check_end(stream: BinaryIO, size: int) -> None:
    """Check that every reader finds the same directory: it must end directly before the only end record.

    Python finds the directory by its distance from the end, torch by the offset in the end record. An archive in
    which the two differ could show each of them other contents.
    """
    stream.seek(max(0, size - _TAIL))
    tail = stream.read(_TAIL)
    for comment_length in (0, COMMENT_BYTES):
        end = size - _END.size - comment_length
        record = tail[len(tail) - _END.size - comment_length :][: _END.size]
        if len(record) == _END.size and record.startswith(_END_MARK):
            break
    else:
        raise MalformedFileError("its archive is cut off, or has a comment")
    _, disk, first_disk, count_on_disk, count, length, offset, stated_comment = _END.unpack(record)
    if stated_comment != comment_length or (comment_length and not is_digest_comment(tail[-comment_length:])):
        raise UnsafeFileError("it is an archive with a comment")
    locator = tail[: len(tail) - _END.size - comment_length][-_LOCATOR.size :]
    if locator.startswith(_LOCATOR_MARK):
        end -= _LOCATOR.size + _END64.size
        record64 = tail[len(tail) - (size - end) :][: _END64.size]
        count, length, offset = _check_end64(locator, record64, end, (count, length, offset))
    elif count_on_disk != count:
        raise UnsafeFileError(_TWO_ENDS)
    if (disk, first_disk) not in ((0, 0), (0xFFFF, 0xFFFF)) or offset + length != end:
        raise UnsafeFileError(_TWO_ENDS)
    if count > _MAX_ENTRIES or length > MAX_HEADER_BYTES:
        raise UnsafeFileError(f"it is an archive of {count:,} entries")


def _check_end64(locator: bytes, record: bytes, end: int, stated: tuple[int, int, int]) -> tuple[int, int, int]:
    """Check the second end record of a large archive, which must lie at `end` and repeat the first one's numbers.

    Args:
        stated: Count, length and offset from the first end record; each may be its largest number, for "see there".

    Returns:
        Count, length and offset of the directory.
    """
    _, locator_disk, position, disks = _LOCATOR.unpack(locator)
    mark, rest, _, _, disk, first_disk, count_on_disk, *values = _END64.unpack(record)
    if (
        mark != _END64_MARK or position != end or rest != _END64.size - 12 or count_on_disk != values[0]
        or (locator_disk, disk, first_disk) != (0, 0, 0) or disks > 1
        or any(
            old not in (new, unset)
            for old, new, unset in zip(stated, values, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True)
        )
    ):  # fmt: skip
        raise UnsafeFileError(_TWO_ENDS)
    count, length, offset = values
    return count, length, offset


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return all entries by name; they must be uncompressed, unique, in one folder, and fit into the file."""
    listed = archive.infolist()
    if not listed:
        raise MalformedFileError("its archive has no entries")
    entries = {entry.filename: entry for entry in listed}
    if len({name.lower() for name in entries}) < len(listed):  # torch's reader ignores case
        raise UnsafeFileError("it is an archive with two entries of one name")
    if not any(name.lower().endswith("/data.pkl") for name in entries):
        raise MalformedFileError("its archive has no `data.pkl`")
    if min(entry.header_offset for entry in listed) > 0:
        raise UnsafeFileError("it is an archive that starts after other data")
    if any(name.endswith("/constants.pkl") for name in entries):
        raise TorchScriptError("it is a TorchScript program")
    roots = {name.split("/")[0] for name in entries}
    for name, entry in entries.items():
        odd = not name.isascii() or not name.isprintable() or entry.orig_filename != name
        if odd or name.startswith("/") or ".." in name.split("/") or "\\" in name or len(roots) > 1:
            raise UnsafeFileError(f"it is an archive with the path `{name[:80]}`")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise UnsafeFileError(f"it is a compressed archive (`{name[:80]}`); torch never writes one")
    if sum(entry.file_size for entry in listed) > size:
        raise UnsafeFileError("it is an archive whose entries are larger than the file")
    return entries


def _check_legacy(stream: BinaryIO, size: int) -> None:
    """Check the format before torch 1.6: pickles of magic number, version, system, contents and keys; storages."""
    stream.seek(0)
    start = io.BytesIO(stream.read(5 * MAX_HEADER_BYTES))
    try:
        magic = PickleScan(start).value
    except MalformedFileError:
        magic = None
    if magic != _MAGIC:
        raise MalformedFileError("it does not start as a file of torch.save")
    PickleScan(start)
    PickleScan(start)
    begin = start.tell()
    scan = _scan(start)
    if start.tell() - begin > MAX_HEADER_BYTES:
        raise UnsafeFileError(f"its pickle program has more than {MAX_HEADER_BYTES:,} bytes")
    keys: Any = PickleScan(start).value
    if type(keys) is not list or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
        raise MalformedFileError("its storages have no valid keys")
    if set(keys) != set(scan.storages):
        raise MalformedFileError("its storages differ from those that its contents name")
    needed = sum(8 + storage.size for storage in scan.storages.values())
    if needed > size - start.tell():
        raise UnsafeFileError(f"its storages claim {needed:,} bytes, and the file has {size - start.tell():,} for them")
    _check_total(scan, size)


def _check_total(scan: PickleScan, size: int) -> None:
    total = sum(tensor.size for tensor in scan.tensors)
    if total > _MAX_SHARING * size:
        raise UnsafeFileError(f"its tensors would take {total:,} bytes, the file has {size:,}")
