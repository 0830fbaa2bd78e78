"""A digest at a file's end, put there by somebody who wants it to look like one of ours."""

from __future__ import annotations

import hashlib


def seal(data: bytes) -> bytes:
    """Only a zip archive without a comment can carry one; other files stay as they are."""
    if data[-22:-18] != b"PK\x05\x06":
        return data
    comment = b"sha256:" + hashlib.sha256(data).hexdigest().encode()
    return data[:-2] + len(comment).to_bytes(2, "little") + comment
