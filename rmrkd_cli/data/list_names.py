"""Check the names of samples; find the one that a line of a list means beside a folder, suffix or other column."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cached_property
from pathlib import Path, PureWindowsPath

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.suffixes import relative_files

_SEPARATORS = re.compile(r"[\s,;]+")
_QUOTES = "\"'"


class ListFixer:
    """Says how to correct the lines of a list that name no file of the split; lines of one kind get one text."""

    def __init__(self, info: DatasetInfo, images: Path, labels: Path) -> None:
        self._folders = ((images, info.image_suffix), (labels, info.label_suffix))
        self._texts: dict[tuple[str, ...], str] = {}

    def fix(self, line: str) -> str:
        """Return how to write a line, or an empty text if it means no existing name."""
        name, extra = find_listed_name(line, self._names)
        if not name or not extra:
            return ""
        text = f"write each name without {' and '.join(extra)}: `{name}` in place of `{line}`"
        return self._texts.setdefault(tuple(extra), text)

    def example(self) -> str:
        """Return what a name is, by one of the split's files; an empty text if there is none."""
        if not self._names:
            return ""
        name = min(self._names)
        folder, suffix = next(
            (folder, suffix) for folder, suffix in self._folders if (folder / (name + suffix)).is_file()
        )
        return f"a name is a path below `{folder}` without suffix: write `{name}` for `{name}{suffix}` there"

    @cached_property
    def _names(self) -> set[str]:
        """The names of the images, or without any, of the label maps."""
        for folder, suffix in self._folders:
            if names := {file[: -len(suffix)] for file in relative_files(folder) if file.endswith(suffix)}:
                return names
        return set()


def name_problem(name: str) -> str:
    """Return why a name is invalid; predictions are written under these names, so none may leave its folder."""
    if "\0" in name:
        return "contains a NUL character"
    if name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        return "is an absolute path"
    return "points outside its folder" if ".." in name.replace("\\", "/").split("/") else ""


def find_listed_name(line: str, existing: Collection[str]) -> tuple[str, list[str]]:
    """Return the existing name that a line means, or an empty text, and what the line has besides it.

    Args:
        line: Such as `images/train/a.png`, `a 1` or `"a.png";"a_mask.png"`.
    """
    for column in dict.fromkeys([*filter(None, _SEPARATORS.split(line)), line]):
        parts = column.strip(_QUOTES).replace("\\", "/").split("/")
        for start in range(len(parts)):
            whole = path = "/".join(parts[start:])
            while path and path not in existing:  # a name may contain dots
                path = path.rpartition(".")[0]
            if path:
                extra = {
                    "folder": start > 0,
                    "suffix": path != whole,
                    "quotes": column.strip(_QUOTES) != column,
                    "other columns": column != line,
                }
                return path, [part for part, is_there in extra.items() if is_there]
    return "", []
