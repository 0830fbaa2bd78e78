"""A cache of decoded training images: decoding a PNG takes longer than all other work on a sample.

One file contains all samples, in memory (`ram`) or in the cache folder (`disk`). Every loader process on the machine
maps it. The first process that needs a sample decodes it. The entry of a sample stores a stamp of its two source files,
so that a changed file is decoded again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.image_io import header_size
from rmrkd_cli.data.sample_reader import Pair, SampleFiles
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.source_file import SourceFile, file_stamp
from rmrkd_cli.errors import CorruptFileError, RmrkdError, RunError
from rmrkd_cli.storage.atomic import atomic_path
from rmrkd_cli.storage.cache import cache_dir
from rmrkd_cli.storage.resources import available_memory, require_space

_MAGIC = b"rmrkd-decoded-1\n"
_ENTRY = np.dtype([("offset", "<u8"), ("pixels", "<u8"), ("height", "<u4"), ("width", "<u4"), ("stamp", "V16")])
_PAGE = 4096
_CHANNELS = 4  # blue, green, red, class
_CONTENTS = "the decoded training images"
_NO_STAMP = bytes(16)


class ImageCache:
    """Samples by index, equal to those of `SampleFiles.pair`; their arrays are read-only views into the cache.

    Args:
        path: Of the file that `create_cache_file` made for the same samples.
        files: Reads the samples that are not in the cache yet.
    """

    def __init__(self, path: str | Path, files: SampleFiles) -> None:
        self.path = str(path)
        self.files = files
        self._process = 0

    def __len__(self) -> int:
        return len(self.files)

    def has_labels(self, index: int) -> bool:
        """Return whether an image has a label map."""
        return self.files.has_labels(index)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what each process opens for itself."""
        return {"path": self.path, "files": self.files, "_process": 0}

    def pair(self, index: int) -> Pair:
        """Return an image and its labels.

        Raises:
            CorruptFileError: When a file is damaged.
            RunError: When a file is missing or changed its size, or the cache cannot be read or written.
        """
        self._open()
        stamp = _stamp(self.files, index)
        if self._table[index]["stamp"].tobytes() != stamp:
            self._fill(index, stamp)
        offset, pixels, height, width, _ = self._table[index].tolist()
        image = self._data[offset : offset + 3 * pixels].reshape(height, width, 3)
        return Pair(image, self._data[offset + 3 * pixels : offset + _CHANNELS * pixels].reshape(height, width))

    def _open(self) -> None:
        """Open the file once in each process, because locks belong to a process."""
        if self._process == os.getpid():
            return
        with _name_cache("open"):
            self._file = os.open(self.path, os.O_RDWR)
            self._data: NDArray[np.uint8] = np.asarray(np.memmap(self.path, np.uint8, "r"))
            table = np.memmap(self.path, _ENTRY, "r+", offset=_PAGE, shape=(len(self.files),))
        self._table: NDArray[Any] = table
        self._process = os.getpid()

    def _fill(self, index: int, stamp: bytes) -> None:
        place = _PAGE + index * _ENTRY.itemsize
        with _name_cache("lock"):
            fcntl.lockf(self._file, fcntl.LOCK_EX, _ENTRY.itemsize, place)
        try:
            entry = self._table[index]
            if entry["stamp"].tobytes() == stamp:  # another process has decoded it meanwhile
                return
            pair = self.files.pair(index)
            if pair.labels.size != int(entry["pixels"]):
                raise RunError(
                    f"the size of `{self.files.samples[index].image}` changed during the run", "start the command again"
                )
            self._table["stamp"][index] = np.void(_NO_STAMP)
            _write(self._file, pair, int(entry["offset"]))
            self._table["height"][index], self._table["width"][index] = pair.labels.shape
            self._table["stamp"][index] = np.void(stamp)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _ENTRY.itemsize, place)


class CacheFile:
    """The file of a cache, kept open while a command runs.

    Attributes:
        path: Every process of this machine can open it. A file in memory is deleted when no process has it open.
        size: Bytes needed for all samples.
        location: The path, or "memory", for messages.
    """

    def __init__(self, path: str, size: int, keep_open: int | None = None) -> None:
        self.path, self.size = path, size
        self.location = path if keep_open is None else "memory"
        self._keep_open = keep_open

    def __enter__(self) -> CacheFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._keep_open is not None:
            os.close(self._keep_open)


def create_cache_file(where: str, files: SampleFiles, *, skip_corrupt: bool = False) -> CacheFile:
    """Create the cache file with space for all samples, or reuse that of an earlier run on disk.

    Args:
        where: "ram" or "disk".
        skip_corrupt: Reserve no space for unreadable images instead of raising an error.

    Raises:
        RmrkdError: When it does not fit into memory or on the disk.
        RunError: When the file cannot be created.
    """
    table = _layout(files, skip_corrupt=skip_corrupt)
    size = int(table["offset"][-1] + _CHANNELS * table["pixels"][-1])
    with _name_cache("create"):
        return _in_memory(table, size) if where == "ram" else _on_disk(table, size, files)


def _layout(files: SampleFiles, *, skip_corrupt: bool) -> NDArray[Any]:
    """Return the table of an empty cache, from the sizes in the image headers."""
    table = np.zeros(len(files), _ENTRY)
    offset = _round_to_pages(_PAGE + table.nbytes)
    for entry, sample in zip(table, files.samples, strict=True):
        try:
            size = header_size(sample.image)
            pixels = size.width * size.height
        except CorruptFileError:
            if not skip_corrupt:
                raise
            pixels = 0
        entry["offset"], entry["pixels"] = offset, pixels
        offset += _round_to_pages(_CHANNELS * pixels)
    return table


def _in_memory(table: NDArray[Any], size: int) -> CacheFile:
    if not hasattr(os, "memfd_create"):
        raise RmrkdError("`--cache ram` works on Linux only", "use --cache disk")
    require_space(_CONTENTS, size, available_memory(), "memory", "use --cache disk or --cache off")
    handle = os.memfd_create("rmrkd-decoded")
    _write_table(handle, table, size)
    return CacheFile(f"/proc/{os.getpid()}/fd/{handle}", size, keep_open=handle)


def _on_disk(table: NDArray[Any], size: int, files: SampleFiles) -> CacheFile:
    folder = cache_dir() / "decoded"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{files.info.name}-{_identity(table, files)}"
    reusable = path.is_file() and path.stat().st_size == size and _has_magic(path)
    used = path.stat().st_blocks * 512 if reusable else 0
    hint = "set RMRKD_CACHE=DIR to a folder on a larger disk, or use --cache off"
    require_space(_CONTENTS, size - used, shutil.disk_usage(folder).free, f"`{folder}`", hint)
    if not reusable:
        with atomic_path(path) as partial, partial.open("rb+") as stream:
            _write_table(stream.fileno(), table, size)
    return CacheFile(str(path), size)


def _identity(table: NDArray[Any], files: SampleFiles) -> str:
    """Return a hash of what must be equal to share a cache: machine, files, sizes, classes, and scaling.

    Machines with a common home folder do not share a cache: one may see the writes of the other late, or never.
    """
    names = "\n".join(" ".join(str(path.resolve()) for path in _source_files(sample)) for sample in files.samples)
    parts = [platform.node().encode(), names.encode(), table.tobytes(), files.classes_of.tobytes()]
    if files.info.max_value is not None:
        parts.append(repr(files.info.max_value).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _has_magic(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def _write_table(handle: int, table: NDArray[Any], size: int) -> None:
    os.ftruncate(handle, size)
    os.pwrite(handle, table.tobytes(), _PAGE)
    os.fsync(handle)
    os.pwrite(handle, _MAGIC, 0)


def _stamp(files: SampleFiles, index: int) -> bytes:
    """Return a hash of the size, times and inode of the files of a sample."""
    facts = []
    for path in _source_files(files.samples[index]):
        try:
            facts.append(file_stamp(path))
        except OSError as error:
            raise RunError(f"`{path}` was deleted or moved during the run: {error.strerror}") from error
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()


def _source_files(sample: Sample) -> list[SourceFile]:
    return [sample.image] if sample.label is None else [sample.image, sample.label]


def _write(handle: int, pair: Pair, offset: int) -> None:
    """Write the arrays and flush them to the disk, so that they exist before their stamp."""
    with _name_cache("write into"):
        for array in pair:
            left = memoryview(np.ascontiguousarray(array).reshape(-1))  # type: ignore[arg-type]
            while left:
                written = os.pwrite(handle, left, offset)
                left, offset = left[written:], offset + written
        os.fdatasync(handle)


@contextmanager
def _name_cache(action: str) -> Iterator[None]:
    """Turn an OSError, such as a full disk or a missing permission, into an error about the cache."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot {action} the cache of decoded images: {error}", "use --cache off") from error


def _round_to_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
