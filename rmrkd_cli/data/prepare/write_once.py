"""Files written whole, under names that nothing else has: what is there already is compared, never replaced."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from rmrkd_cli.data.image_io import Picture, read_labels
from rmrkd_cli.data.label_histogram import count_values
from rmrkd_cli.data.samples import MAX_LIST_BYTES
from rmrkd_cli.errors import RunError
from rmrkd_cli.storage.atomic import create_bytes
from rmrkd_cli.storage.regular_file import error_reason, read_regular

PARTIAL = ".rmrkd-partial"
_SHOWN = 5
WRITTEN, KEPT, CONFLICT = "written", "kept", "conflict"


def place_labels(labels: Picture, target: Path) -> tuple[str, str]:
    """Writes a label map (H, W) as PNG unless the name is taken.

    Returns:
        `WRITTEN`; `KEPT` when the file there holds the same; or `CONFLICT` and what is there instead.

    Raises:
        OSError: As on a full disk; nothing is left behind.
    """
    if not os.path.lexists(target):
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(labels).save(stream, "PNG")
        target.parent.mkdir(parents=True, exist_ok=True)
        if create_bytes(stream.getvalue(), target, suffix=PARTIAL):
            return WRITTEN, ""
    try:
        there = read_labels(target)
    except RunError as error:
        return CONFLICT, error.message.removeprefix(f"`{target}` ")
    if there.shape != labels.shape:
        return CONFLICT, f"is {there.shape[1]}x{there.shape[0]}, not {labels.shape[1]}x{labels.shape[0]}"
    different = int((there != labels).sum())
    return (CONFLICT, f"differs in {different} pixels") if different else (KEPT, "")


def place_names(names: Iterable[str], target: Path) -> tuple[str, str]:
    """The same for a list of names, which is compared as a set and written in order."""
    wanted = sorted(set(names))
    content = "".join(f"{name}\n" for name in wanted).encode()
    if not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if create_bytes(content, target, suffix=PARTIAL):
            return WRITTEN, ""
    try:
        text = read_regular(target, MAX_LIST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return CONFLICT, f"cannot be read: {error_reason(error) if isinstance(error, OSError) else error}"
    there = {line.strip() for line in text.splitlines()} - {""}
    more, fewer = len(there - set(wanted)), len(set(wanted) - there)
    return (CONFLICT, f"has {more} names too many and lacks {fewer}") if more or fewer else (KEPT, "")


def clear_partials(folder: Path) -> None:
    """Takes away what a killed command left."""
    for path in folder.rglob(f".*{PARTIAL}"):
        with suppress(OSError):
            path.unlink()


def linked(root: Path, targets: Iterable[Path]) -> list[str]:
    """For each folder below the root that is a link, where the files that were written through it really are."""
    folders = {folder for target in targets for folder in target.relative_to(root).parents}
    links = sorted(root / folder for folder in folders if (root / folder).is_symlink() and folder != Path())
    told = [f"`{link}` is a link: what is written there lies in `{link.resolve()}`" for link in links[:_SHOWN]]
    return [*told, *([f"and {len(links) - _SHOWN} more folders are links"] if links[_SHOWN:] else [])]


def strange_values(labels: Picture, allowed: Iterable[int]) -> list[int]:
    """Values that occur and are not allowed."""
    table = np.zeros(256, np.bool_)
    table[list(allowed)] = True
    return [int(value) for value in np.flatnonzero(count_values(labels)) if not table[value]]
