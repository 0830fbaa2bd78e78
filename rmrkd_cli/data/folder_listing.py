"""List the files of large folders: one pass over the directory, without a system call a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

_MAX_STATS = 4096  # names that are looked up one by one; for more, listing their folder is faster
_CHUNK = 4096  # entries of a folder in memory


def list_names(folder: Path, suffix: str) -> tuple[list[str], list[str]]:
    """Return the paths below a folder that end in a suffix, without it, sorted; and those that are no files.

    Hidden ones are included. Folders are entered, but no links to folders, and none without read permission.
    """
    names, others = _names(folder, suffix)
    return sorted(names), sorted(others)


def missing_names(folder: Path, suffix: str, names: Sequence[str]) -> list[str]:
    """Return the names without a file in the folder, in their order."""
    unknown: Iterable[str] = names
    if len(names) > _MAX_STATS:
        existing = set(_names(folder, suffix)[0])
        unknown = [name for name in names if name not in existing]  # such as `./a`, or behind a link to a folder
    return [name for name in unknown if not os.path.isfile(folder / (name + suffix))]


def _names(folder: Path, suffix: str) -> tuple[list[str], list[str]]:
    """Return the names of all files that end in the suffix, and of folders, broken links and the like that do."""
    names: list[str] = []
    others: list[str] = []
    end = -len(suffix) or None
    for prefix, entries in scan_folder(folder):
        named = [entry for entry in entries if entry.name.endswith(suffix)]
        files = [prefix + entry.name[:end] for entry in named if entry.is_file()]
        names += files
        if len(files) < len(named):
            others += [prefix + entry.name[:end] for entry in named if not entry.is_file()]
    return names, others


def scan_folder(folder: Path, *, hidden: bool = True) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield the entries of a folder and all below it, some at a time, with the path of their folder and `/` before.

    No links to folders are entered, and no folders without read permission.

    Args:
        hidden: Enter folders whose names begin with a dot.
    """
    below = [(str(folder), "")]
    while below:
        path, prefix = below.pop()
        try:
            entries = os.scandir(path)
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            continue
        with entries:
            while chunk := list(islice(entries, _CHUNK)):
                folders = [entry for entry in chunk if entry.is_dir(follow_symlinks=False)]
                below += [(entry.path, f"{prefix}{entry.name}/") for entry in folders if hidden or entry.name[0] != "."]
                yield prefix, chunk
