"""The digest at the end of a checkpoint file, by which damage is seen.

torch.save writes a zip archive, and such an archive may end in a comment, which every reader passes over. The SHA-256
of what torch wrote goes there, so that it travels with the file. (The archive's own CRC-32 sums are not read by torch.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

_LABEL = b"sha256:"
COMMENT_BYTES = len(_LABEL) + 64
_NO_COMMENT = b"\0\0"  # the length of the comment, the last two bytes that torch writes
_LENGTH = COMMENT_BYTES.to_bytes(2, "little")
_BLOCK = 1 << 22


def save_sealed(contents: Mapping[str, Any], path: Path) -> None:
    """`torch.save`, with the digest of what was meant to be written at the file's end.

    Raises:
        OSError: When the file cannot be written to its end.
    """
    import torch

    with path.open("wb", buffering=0) as stream:
        writer = _HashingWriter(stream)
        try:
            torch.save(dict(contents), writer)  # type: ignore[arg-type]
        except RuntimeError:
            if writer.error is not None:  # torch only says that its position is wrong
                raise writer.error from None
            raise
        comment = _LABEL + writer.digest.hexdigest().encode()
        stream.seek(-len(_NO_COMMENT), 2)
        writer.write(_LENGTH + comment)


def damage(path: Path, *, required: bool = False) -> str:
    """What is wrong with a file's bytes, in words; empty where its digest agrees or, unless `required`, is absent."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            told = _told(stream, size)
            if told is None:
                why = "it has no digest at its end: cut, or not written by rmrkd" if size else "it is empty"
                return why if required else ""
            found = _computed(stream, size)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return "" if found == told else f"its bytes have the digest {found[:12]}…, it was written with {told[:12]}…"


def stored_digest(comment: bytes) -> bool:
    """Whether an archive's comment is such a digest."""
    return re.fullmatch(_LABEL + rb"[0-9a-f]{64}", comment) is not None


class _HashingWriter:
    """The stream that torch writes to; keeps the error that torch would hide."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        left = memoryview(data)
        try:
            while left:  # an unbuffered file takes at most 2 GiB at a time
                left = left[self.stream.write(left) :]
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def _told(stream: BinaryIO, size: int) -> str | None:
    tail = len(_LENGTH) + COMMENT_BYTES
    if size < tail:
        return None
    stream.seek(size - tail)
    end = stream.read(tail)
    if not end.startswith(_LENGTH + _LABEL):
        return None
    return end[len(_LENGTH) + len(_LABEL) :].decode("ascii", "replace")


def _computed(stream: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    left = size - len(_LENGTH) - COMMENT_BYTES
    while left and (block := stream.read(min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
    digest.update(_NO_COMMENT)
    return digest.hexdigest()
