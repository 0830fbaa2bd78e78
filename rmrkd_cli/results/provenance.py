"""The SHA-256 of a checkpoint and of the checkpoint of its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rmrkd_cli.storage.cache import sha256_of


def provenance(path: Path, sources: object) -> dict[str, str]:
    """Return `checkpoint_sha256`, and `taught_by` where the checkpoint names its teacher.

    A comparison recognises the teacher of a student by `taught_by`.

    Args:
        sources: `meta.sources` of the checkpoint, which may come from anyone.
    """
    teacher = sources.get("teacher") if isinstance(sources, Mapping) else None
    sha256 = teacher.get("sha256") if isinstance(teacher, Mapping) else None
    taught_by = {"taught_by": sha256} if isinstance(sha256, str) and len(sha256) == 64 else {}
    return {"checkpoint_sha256": sha256_of(path), **taught_by}
