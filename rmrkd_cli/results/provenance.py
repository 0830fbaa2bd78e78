"""Which file a network came from and which file taught it, by their SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rmrkd_cli.storage.cache import sha256_of


def provenance(path: Path, sources: object) -> dict[str, str]:
    """Which file a network is, and which file taught it, by their SHA-256: a teacher is known again by it.

    Args:
        sources: A checkpoint's `meta.sources`, which may be anybody's.
    """
    teacher = sources.get("teacher") if isinstance(sources, Mapping) else None
    taught_by = teacher.get("sha256") if isinstance(teacher, Mapping) else None
    told = {"taught_by": taught_by} if isinstance(taught_by, str) and len(taught_by) == 64 else {}
    return {"checkpoint_sha256": sha256_of(path), **told}
