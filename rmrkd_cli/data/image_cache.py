"""A cache of decoded training images: decoding a PNG takes longer than everything else that is done with it.

One file holds them all, in memory (`ram`) or in the cache folder (`disk`); every loader process of every worker on the
machine maps it. A sample is decoded by whoever needs it first. Its entry then holds a stamp of its two source files,
so a file that changes is decoded again.
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
from rmrkd_cli.errors import CorruptFileError, RmrkdError, RunError
from rmrkd_cli.storage.cache import cache_dir
from rmrkd_cli.storage.resources import available_memory, require_space

_MAGIC = b"rmrkd-decoded-1\n"
_ENTRY = np.dtype([("offset", "<u8"), ("pixels", "<u8"), ("height", "<u4"), ("width", "<u4"), ("stamp", "V16")])
_PAGE = 4096
_CHANNELS = 4  # blue, green, red, class
_WHAT = "the decoded training images"
_EMPTY = bytes(16)


class ImageCache:
    """Samples by index, as `SampleFiles.pair` gives them; the arrays are views into the cache and must not be changed.

    Args:
        path: Of a file that `create` made for the same samples.
        files: Where samples come from that are not in it yet.
    """

    def __init__(self, path: str | Path, files: SampleFiles) -> None:
        self.path = str(path)
        self.files = files
        self._process = 0

    def __len__(self) -> int:
        return len(self.files)

    def pair(self, index: int) -> Pair:
        self._open()
        stamp = _stamp(self.files, index)
        if self._table[index]["stamp"].tobytes() != stamp:
            self._fill(index, stamp)
        offset, pixels, height, width, _ = self._table[index].tolist()
        image = self._data[offset : offset + 3 * pixels].reshape(height, width, 3)
        return Pair(image, self._data[offset + 3 * pixels : offset + _CHANNELS * pixels].reshape(height, width))

    def _open(self) -> None:
        """In each process anew: a lock belongs to a process, and a started one inherits nothing on some systems."""
        if self._process == os.getpid():
            return
        with _told("open"):
            self._file = os.open(self.path, os.O_RDWR)
            self._data: NDArray[np.uint8] = np.asarray(np.memmap(self.path, np.uint8, "r"))
            table = np.memmap(self.path, _ENTRY, "r+", offset=_PAGE, shape=(len(self.files),))
        self._table: NDArray[Any] = table
        self._process = os.getpid()

    def _fill(self, index: int, stamp: bytes) -> None:
        place = _PAGE + index * _ENTRY.itemsize
        with _told("lock"):
            fcntl.lockf(self._file, fcntl.LOCK_EX, _ENTRY.itemsize, place)
        try:
            entry = self._table[index]
            if entry["stamp"].tobytes() == stamp:  # another process was first
                return
            pair = self.files.pair(index)
            if pair.labels.size != int(entry["pixels"]):
                raise RunError(f"`{self.files.samples[index].image}` changed its size while it was used", "start again")
            self._table["stamp"][index] = np.void(_EMPTY)
            _write(self._file, pair, int(entry["offset"]))
            self._table["height"][index], self._table["width"][index] = pair.labels.shape
            self._table["stamp"][index] = np.void(stamp)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _ENTRY.itemsize, place)


class Store:
    """The file behind a cache, for as long as a command runs.

    Attributes:
        path: Where every process of this machine opens it; one in memory is gone when nobody has it open.
        size: Bytes, all samples decoded.
        place: For messages.
    """

    def __init__(self, path: str, size: int, keep_open: int | None = None) -> None:
        self.path, self.size = path, size
        self.place = path if keep_open is None else "memory"
        self._keep_open = keep_open

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        if self._keep_open is not None:
            os.close(self._keep_open)


def create(where: str, files: SampleFiles, *, skip_corrupt: bool = False) -> Store:
    """Makes room for all samples, or finds what an earlier run has decoded.

    Args:
        where: "ram" or "disk".
        skip_corrupt: Files that are no images get no room, where they would be an error otherwise.

    Raises:
        RmrkdError: With the sizes, when it does not fit.
    """
    table = _layout(files, skip_corrupt=skip_corrupt)
    size = int(table["offset"][-1] + _CHANNELS * table["pixels"][-1])
    with _told("make"):
        return _in_memory(table, size) if where == "ram" else _on_disk(table, size, files)


def _layout(files: SampleFiles, *, skip_corrupt: bool) -> NDArray[Any]:
    """The table of an empty cache, from the sizes in the images' headers."""
    table = np.zeros(len(files), _ENTRY)
    offset = _pages(_PAGE + table.nbytes)
    for entry, sample in zip(table, files.samples, strict=True):
        try:
            size = header_size(sample.image)
            pixels = size.width * size.height
        except CorruptFileError:
            if not skip_corrupt:
                raise
            pixels = 0
        entry["offset"], entry["pixels"] = offset, pixels
        offset += _pages(_CHANNELS * pixels)
    return table


def _in_memory(table: NDArray[Any], size: int) -> Store:
    if not hasattr(os, "memfd_create"):
        raise RmrkdError("`--cache ram` needs Linux", "--cache disk")
    require_space(_WHAT, size, available_memory(), "memory", "--cache disk, or --cache off")
    handle = os.memfd_create("rmrkd-decoded")
    _begin(handle, table, size)
    return Store(f"/proc/{os.getpid()}/fd/{handle}", size, keep_open=handle)


def _on_disk(table: NDArray[Any], size: int, files: SampleFiles) -> Store:
    folder = cache_dir() / "decoded"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{files.info.name}-{_identity(table, files)}"
    found = path.is_file() and path.stat().st_size == size and _starts_well(path)
    used = path.stat().st_blocks * 512 if found else 0
    hint = "RMRKD_CACHE=DIR on a larger disk, or --cache off"
    require_space(_WHAT, size - used, shutil.disk_usage(folder).free, f"`{folder}`", hint)
    if not found:
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _begin(handle, table, size)
            os.replace(partial, path)
        finally:
            os.close(handle)
            partial.unlink(missing_ok=True)
    return Store(str(path), size)


def _identity(table: NDArray[Any], files: SampleFiles) -> str:
    """Of what runs must share to share a cache: machine, files, sizes, and classes.

    Two machines with one home folder would each see the other's writes late, or not at all.
    """
    names = "\n".join(f"{sample.image.resolve()} {sample.label.resolve()}" for sample in files.samples)
    parts = (platform.node().encode(), names.encode(), table.tobytes(), files.classes_of.tobytes())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _starts_well(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def _begin(handle: int, table: NDArray[Any], size: int) -> None:
    os.ftruncate(handle, size)
    os.pwrite(handle, table.tobytes(), _PAGE)
    os.fsync(handle)
    os.pwrite(handle, _MAGIC, 0)


def _stamp(files: SampleFiles, index: int) -> bytes:
    """Of both files as they are now."""
    sample = files.samples[index]
    facts = []
    for path in (sample.image, sample.label):
        try:
            status = os.stat(path)
        except OSError as error:
            raise RunError(f"`{path}` is gone: {error.strerror}") from error
        facts.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()


def _write(handle: int, pair: Pair, offset: int) -> None:
    """On a disk the images are there before the stamp that vouches for them is."""
    with _told("write into"):
        for array in pair:
            left = memoryview(np.ascontiguousarray(array).reshape(-1))  # type: ignore[arg-type]
            while left:
                written = os.pwrite(handle, left, offset)
                left, offset = left[written:], offset + written
        os.fdatasync(handle)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Says which cache a system's error is about: a full disk, a folder without permission or without locks."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot {what} the cache of decoded images: {error}", "--cache off") from error


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
