"""Read what an offline run of wandb wrote: its `.wandb` file, a log of protobuf records in blocks as in LevelDB."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _FILE_HEADER, _CHUNK_HEADER = 32_768, 7, 7  # bytes
_WHOLE, _LAST = 1, 4  # kinds of chunks that end a record


@dataclass
class OfflineRun:
    """The contents of one offline folder.

    Attributes:
        rows: The history: name → value of each row, in order.
        artifacts: Name of each file of the artifacts → its local path.
    """

    run: Any = None
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)


def offline_folders(path: Path) -> list[Path]:
    """Return the folders of offline runs in a run directory, oldest first."""
    return sorted((path / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_ctime_ns)


def read_offline_run(folder: Path) -> OfflineRun:
    """Read the `.wandb` file in the folder of an offline run."""
    (file,) = folder.glob("*.wandb")
    found = OfflineRun()
    for record in _records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= {_key(item): json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            found.rows.append(_nested(record.history.item))
        elif kind == "summary":
            found.summary |= _nested(record.summary.update)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
        elif kind == "artifact":
            found.artifacts |= {item.path: Path(item.local_path) for item in record.artifact.manifest.contents}
    return found


def _records(data: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b":W&B"
    position, parts = _FILE_HEADER, b""
    while position + _CHUNK_HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK_HEADER:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        start = position + _CHUNK_HEADER
        parts += data[start : start + size]
        position = start + size
        if kind in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _nested(items: Any) -> dict[str, Any]:
    """Return name → value; a picture is a mapping."""
    found: dict[str, Any] = {}
    for item in items:
        names = list(item.nested_key) or [item.key]
        inner = found
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
        inner[names[-1]] = json.loads(item.value_json)
    return found
