"""Tar archives in place of a folder: `shards-{00000..00099}.tar` or `DIR/*.tar`, as webdataset writes them."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.suffixes import common_endings
from rmrkd_cli.data.tar_index import read_index
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.tar_member import Archive

MEMBER = np.dtype([("archive", "<i4"), ("size", "<u4"), ("offset", "<u8")])
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 100_000
_MAX_SIZE = (1 << 32) - 1


def is_shards(path: str | Path) -> bool:
    """Return whether a path of a preset names tar archives instead of a folder."""
    return str(path).endswith(".tar")


class Members(NamedTuple):
    """Files in tar archives.

    Attributes:
        names: Their paths in the archives, without the suffix, sorted.
        places: For each name its archive, its size, and the offset of its first byte.
    """

    archives: tuple[Archive, ...]
    names: list[str]
    places: NDArray[Any]

    def look_up(self, names: Sequence[str]) -> NDArray[Any]:
        """Return the places of names; `archive` is -1 where there is none."""
        if names == self.names:
            return self.places
        found = np.zeros(len(names), MEMBER)
        found["archive"] = -1
        row_of = dict(zip(self.names, range(len(self.names)), strict=True))
        rows = np.fromiter((row_of.get(name, -1) for name in names), np.int64, len(names))
        found[rows >= 0] = self.places[rows[rows >= 0]]
        return found


def find_members(root: Path, pattern: str, suffix: str, *, without: str | None = None) -> Members:
    """Return the files of all archives of a pattern whose names end in a suffix.

    Args:
        root: The folder that the pattern is relative to.
        without: Leave out files that end in this longer suffix, such as `_mask.png` where images end in `.png`.

    Raises:
        RmrkdError: When an archive is missing, damaged or unsafe, or two archives hold a file of the same name.
    """

    def choose(name: str) -> str | None:
        is_chosen = name.endswith(suffix) and not (without and name.endswith(without))
        return name[: len(name) - len(suffix)] if is_chosen else None

    return _collect(find_shards(root, pattern), choose)


def find_images(root: Path, pattern: str, suffixes: Sequence[str]) -> Members:
    """Return the files of all archives that end in one of the suffixes, in any case; their names keep the suffix.

    Hidden files are left out.

    Raises:
        RmrkdError: As `find_members`, and when two files have the same name up to the suffix: one is no image.
    """
    ends = tuple(suffix.lower() for suffix in suffixes)
    members = _collect(
        find_shards(root, pattern),
        lambda name: name if name.lower().endswith(ends) and not _is_hidden(name) else None,
    )
    names = members.names
    for row in range(1, len(names)):
        if names[row].rpartition(".")[0] == names[row - 1].rpartition(".")[0]:
            raise RmrkdError(
                f"`{pattern}` contains `{names[row - 1]}` and `{names[row]}`: only one of them is an image",
                f"set `data.unlabelled.suffix` to that of the images, such as `{PurePosixPath(names[row - 1]).suffix}`",
            )
    return members


def endings(root: Path, pattern: str) -> list[str]:
    """Return the suffixes of the files in all archives of a pattern, most frequent first."""
    return common_endings(name for path in find_shards(root, pattern) for name in read_index(path).names)


def _collect(paths: Sequence[Path], choose: Callable[[str], str | None]) -> Members:
    """Return the files for which `choose` returns a name, under that name."""
    archives, places = [], []
    names: list[str] = []
    for number, path in enumerate(paths):
        index = read_index(path)
        archives.append(index.archive)
        chosen = [(row, name) for row, name in enumerate(map(choose, index.names)) if name is not None]
        names += [name for _, name in chosen]
        rows = index.places[[row for row, _ in chosen]]
        part = np.zeros(len(rows), MEMBER)
        part["archive"], part["offset"] = number, rows["offset"]
        part["size"] = np.minimum(rows["size"], _MAX_SIZE)  # such a size is refused when it is read
        places.append(part)
    order = sorted(range(len(names)), key=names.__getitem__)
    members = Members(tuple(archives), [names[row] for row in order], np.concatenate(places)[order])
    _check_unique(members)
    return members


def find_shards(root: Path, pattern: str) -> list[Path]:
    """Return the archives of a pattern, in its order.

    Raises:
        RmrkdError: When there is none, or one of a range is missing.
    """
    parts = _RANGE.split(pattern)  # text, first, last, text, first, last, …, text
    texts, ranges = parts[::3], list(zip(parts[1::3], parts[2::3], strict=True))
    if any(int(last) < int(first) for first, last in ranges):
        raise RmrkdError(f"`{pattern}` has a range whose last number is smaller than its first")
    if np.prod([int(last) - int(first) + 1.0 for first, last in ranges]) > _MAX_SHARDS:
        raise RmrkdError(f"`{pattern}` names more than {_MAX_SHARDS} archives")
    found: list[Path] = []
    for numbers in product(*(range(int(first), int(last) + 1) for first, last in ranges)):
        filled = [f"{number:0{len(first)}d}" for number, (first, _) in zip(numbers, ranges, strict=True)]
        name = "".join(text + number for text, number in zip(texts, [*filled, ""], strict=True))
        pattern_path = Path(glob.escape(str(root))) / name
        paths = sorted(map(Path, glob.glob(str(pattern_path)))) if glob.has_magic(name) else [root / name]
        if not paths or not paths[0].is_file():
            hint = "correct the numbers in the braces, or copy the missing archive" if ranges else "correct the path"
            raise RmrkdError(f"`{root / name}` does not exist" + (f" (of `{pattern}`)" if ranges else ""), hint)
        found += paths
    return found


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _check_unique(members: Members) -> None:
    """Raise RmrkdError if a name occurs in two archives: it names the sample, and the file of its prediction."""
    names = members.names
    row = next((row for row in range(1, len(names)) if names[row] == names[row - 1]), None)
    if row is not None:
        first, second = (members.archives[members.places["archive"][place]].path for place in (row - 1, row))
        raise RmrkdError(
            f"`{names[row]}` is in `{first}` and in `{second}`: names must be unique over all archives",
            "put the files of each archive into a folder of its own, or number them through",
        )
