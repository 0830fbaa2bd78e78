"""The files of tar archives: made once for each archive, kept in the cache folder, and made again when it changes."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.tar_scan import TarError, scan_tar
from rmrkd_cli.errors import RunError
from rmrkd_cli.storage.atomic import write_bytes
from rmrkd_cli.storage.cache import cache_dir
from rmrkd_cli.storage.regular_file import error_reason
from rmrkd_cli.storage.tar_member import Archive

_VERSION = 1
_PLACE = np.dtype([("offset", "<u8"), ("size", "<u8")])


class TarIndex(NamedTuple):
    """The files of an archive.

    Attributes:
        names: In the order of the archive.
        places: For each file, the offset of its first byte and its size.
    """

    archive: Archive
    names: list[str]
    places: NDArray[Any]


def read_index(path: Path) -> TarIndex:
    """Return the files of an archive, from the cache folder if it holds the index of this file, size and time.

    Raises:
        TarError: As `scan_tar`.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise TarError(f"`{path}` cannot be read: {error_reason(error)}") from error
    archive = Archive(path, status.st_size, status.st_mtime_ns)
    stored = cache_dir() / "tar-index" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.index"
    header = json.dumps([_VERSION, archive.size, archive.mtime_ns]).encode()
    with suppress(OSError, ValueError, EOFError):  # a missing or damaged index is made again
        return _decode(archive, stored.read_bytes(), header)
    entries = list(scan_tar(path))
    places = np.array([(entry.offset, entry.size) for entry in entries], _PLACE)
    index = TarIndex(archive, [entry.name for entry in entries], places)
    with suppress(OSError, RunError):  # without a cache folder it is made for each start
        stored.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(_encode(index, header), stored)
    return index


def _encode(index: TarIndex, header: bytes) -> bytes:
    """Return header, places and names as three arrays. A name holds no NUL, so that separates them."""
    names = "\0".join(index.names).encode("utf-8", "surrogatepass")
    stream = io.BytesIO()
    for array in (np.frombuffer(header, np.uint8), index.places, np.frombuffer(names, np.uint8)):
        np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _decode(archive: Archive, data: bytes, header: bytes) -> TarIndex:
    stream = io.BytesIO(data)
    found, places, text = (np.load(stream, allow_pickle=False) for _ in range(3))
    names = text.tobytes().decode("utf-8", "surrogatepass").split("\0") if len(text) else []
    if found.tobytes() != header or places.dtype != _PLACE or len(names) != len(places):
        raise ValueError("the index is of another archive")
    return TarIndex(archive, names, places)
