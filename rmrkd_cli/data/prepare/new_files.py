"""Write label maps and lists as new files; an existing file is compared with the new contents and never replaced."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.label_histogram import count_values
from rmrkd_cli.data.label_io import read_labels
from rmrkd_cli.data.samples import read_name_list
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.storage.atomic import create_bytes

PARTIAL = ".rmrkd-partial"  # of its own, so that the partial files of other programs are never removed
_SHOWN = 3
WRITTEN, UNCHANGED, CONFLICT = "written", "unchanged", "conflict"


def write_label_map(labels: Picture, target: Path) -> tuple[str, str]:
    """Write a label map (H, W) as PNG unless the file exists.

    Returns:
        `WRITTEN`, `UNCHANGED` if the existing file has the same pixels, or `CONFLICT`; and the difference, if any.

    Raises:
        OSError: When the file cannot be written; no partial file is left.
    """
    if not os.path.lexists(target):
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(labels).save(stream, "PNG")
        target.parent.mkdir(parents=True, exist_ok=True)
        if create_bytes(stream.getvalue(), target, suffix=PARTIAL):
            return WRITTEN, ""
    try:
        existing = read_labels(target)
    except RunError as error:
        return CONFLICT, error.message.removeprefix(f"`{target}` ")
    if existing.shape != labels.shape:
        return CONFLICT, f"is {existing.shape[1]}x{existing.shape[0]}, not {labels.shape[1]}x{labels.shape[0]}"
    different = int((existing != labels).sum())
    return (CONFLICT, f"differs in {different} pixels") if different else (UNCHANGED, "")


def write_name_list(names: Iterable[str], target: Path) -> tuple[str, str]:
    """Write names in order, one per line, unless the file exists; an existing file may have another order.

    Returns, Raises: As `write_label_map`.
    """
    new = sorted(set(names))
    content = "".join(f"{name}\n" for name in new).encode()
    if not os.path.lexists(target) and create_bytes(content, target, suffix=PARTIAL):
        return WRITTEN, ""
    try:
        existing = {line.name for line in read_name_list(target)}
    except RmrkdError as error:
        return CONFLICT, error.message.removeprefix(f"the list `{target}` ")
    extra, missing = len(existing - set(new)), len(set(new) - existing)
    return (CONFLICT, f"has {extra} extra and {missing} missing names") if extra or missing else (UNCHANGED, "")


def remove_partial_files(folder: Path) -> None:
    """Remove the partial files of a command that was killed."""
    for path in folder.rglob(f".*{PARTIAL}"):
        with suppress(OSError):
            path.unlink()


def describe_links(root: Path, targets: Iterable[Path]) -> list[str]:
    """Return a notice for each symbolic link below the root through which files were written."""
    folders = {folder for target in targets for folder in target.relative_to(root).parents}
    links = sorted(root / folder for folder in folders if (root / folder).is_symlink() and folder != Path())
    notices = [f"`{link}` is a link: its files are written into `{link.resolve()}`" for link in links[:_SHOWN]]
    return [*notices, *([f"{len(links) - _SHOWN} more folders are links"] if links[_SHOWN:] else [])]


def find_invalid_values(labels: Picture, allowed: Iterable[int]) -> list[int]:
    """Return the values in a label map that are not allowed."""
    return sorted(set(np.flatnonzero(count_values(labels)).tolist()) - set(allowed))
