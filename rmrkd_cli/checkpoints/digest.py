"""Store a SHA-256 digest at the end of a checkpoint file, and find damage with it.

torch.save writes a zip archive. An archive may end with a comment, which every reader ignores. The comment holds the
SHA-256 of what torch wrote, so the digest moves with the file. torch does not read the archive's own CRC-32 sums.
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


def save_with_digest(contents: Mapping[str, Any], path: Path) -> None:
    """Write a file with `torch.save`, and the digest of the intended bytes at its end.

    Raises:
        OSError: The file cannot be written completely.
    """
    import torch

    with path.open("wb", buffering=0) as stream:
        writer = _HashingWriter(stream)
        try:
            torch.save(dict(contents), writer)  # type: ignore[arg-type]
        except RuntimeError:
            if writer.error is not None:  # torch's own message is only about a wrong position
                raise writer.error from None
            raise
        comment = _LABEL + writer.digest.hexdigest().encode()
        stream.seek(-len(_NO_COMMENT), 2)
        writer.write(_LENGTH + comment)


def find_damage(path: Path, *, required: bool = False) -> str:
    """Return what is wrong with a file's bytes, or "" where its digest matches.

    Args:
        required: A file without a digest is damaged.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stored = _stored_digest(stream, size)
            if stored is None:
                problem = "it has no digest at its end: cut off, or not written by rmrkd" if size else "it is empty"
                return problem if required else ""
            computed = _computed_digest(stream, size)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return (
        "" if computed == stored else f"its bytes have the digest {computed[:12]}…, and {stored[:12]}… is stored in it"
    )


def is_digest_comment(comment: bytes) -> bool:
    """Return whether the comment of an archive is a digest that `save_with_digest` wrote."""
    return re.fullmatch(_LABEL + rb"[0-9a-f]{64}", comment) is not None


class _HashingWriter:
    """A stream for torch to write to; it keeps the OSError that torch would hide."""

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
        """Do nothing: the stream is unbuffered."""


def _stored_digest(stream: BinaryIO, size: int) -> str | None:
    tail = len(_LENGTH) + COMMENT_BYTES
    if size < tail:
        return None
    stream.seek(size - tail)
    end = stream.read(tail)
    if not end.startswith(_LENGTH + _LABEL):
        return None
    return end[len(_LENGTH) + len(_LABEL) :].decode("ascii", "replace")


def _computed_digest(stream: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    left = size - len(_LENGTH) - COMMENT_BYTES
    while left and (block := stream.read(min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
    digest.update(_NO_COMMENT)
    return digest.hexdigest()
