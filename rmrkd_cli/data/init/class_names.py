"""Read the files in which annotation tools and data sets name their classes, some with a colour for each."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.regular_file import error_reason, read_regular

Colour = tuple[int, int, int]
# In the order in which they are looked for, in the folder itself and then in the folders right below.
NAME_FILES = (
    "labelmap.txt", "label_map.txt", "class_names.txt", "class_names.json", "classes.txt", "classes.json",
    "label_names.txt", "labels.txt", "labels.json", "names.txt", "obj.names", "codes.txt", "class_dict.csv",
    "_classes.csv", "label_colors.txt",
)  # fmt: skip
VOID = {
    "void", "ignore", "ignored", "__ignore__", "_ignore_", "unlabeled", "unlabelled", "dontcare", "don't care",
}  # fmt: skip
BACKGROUND = {"background", "_background_", "__background__", "bg"}
_MAX_BYTES = 1 << 20
_KEYS = ("classes", "class_names", "labels", "label_names", "names", "categories")  # of a JSON file
_NUMBER = r"\d{1,3}"
_LABELMAP = re.compile(rf"(?P<name>[^:]+):(?P<colour>{_NUMBER},{_NUMBER},{_NUMBER})(:[^:]*){{0,2}}")  # of CVAT
_COLOUR_FIRST = re.compile(rf"(?P<colour>{_NUMBER}[\s,]+{_NUMBER}[\s,]+{_NUMBER})[\s,]+(?P<name>\S.*)")
_COLOUR_LAST = re.compile(rf"(?P<name>.*?\S)[\s,:]+(?P<colour>{_NUMBER}[\s,]+{_NUMBER}[\s,]+{_NUMBER})")
_INDEX_FIRST = re.compile(rf"(?P<index>{_NUMBER})(\s*[:,;=]\s*|\s+)(?P<name>\S.*)")


@dataclass(frozen=True)
class ClassNames:
    """The classes that a file names.

    Attributes:
        file: Relative to the folder of the data set, for messages.
        names: In the order of the file, or of its indices.
        colours: RGB of each class; None if the file has none.
        indices: Label value of each class; None if the file has none.
    """

    file: str
    names: tuple[str, ...]
    colours: tuple[Colour, ...] | None = None
    indices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Entry:
    name: str
    colour: Colour | None = None
    index: int | None = None


def find_class_names(root: Path, file: Path | None = None) -> tuple[ClassNames | None, list[str]]:
    """Return the classes that a file of the data set names, and the other files that name classes.

    Args:
        file: Read this one.

    Raises:
        RmrkdError: The file cannot be read, or names no classes.
    """
    if file is not None:
        return read_class_names(file, str(file)), []
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]
    found = [folder / name for folder in folders for name in NAME_FILES if (folder / name).is_file()]
    if not found:
        return None, []
    names = read_class_names(found[0], found[0].relative_to(root).as_posix())
    others = [path for path in found[1:] if _read_bytes(path) != _read_bytes(found[0])]
    return names, [path.relative_to(root).as_posix() for path in others]


def read_class_names(path: Path, shown: str) -> ClassNames:
    """Return the classes of a text, JSON or CSV file.

    Args:
        shown: Its name in messages.

    Raises:
        RmrkdError: As `find_class_names`.
    """
    try:
        text = _read_bytes(path).decode("utf-8-sig")
        entries = _read_json(json.loads(text)) if path.suffix.lower() == ".json" else _read_lines(path, text)
    except (UnicodeDecodeError, json.JSONDecodeError, ValueError) as error:
        raise RmrkdError(
            f"`{shown}` does not name the classes: {error}",
            "write one name a line, in the order of the label values; for masks of colours `NAME:R,G,B::`",
        ) from error
    entries = [entry for entry in entries if entry.name != "__ignore__"]  # labelme: the label -1, stored as 255
    if not entries:
        raise RmrkdError(f"`{shown}` is empty", "write one class name a line, in the order of the label values")
    if all(entry.index is not None for entry in entries):
        entries.sort(key=lambda entry: entry.index or 0)
    names = tuple(entry.name for entry in entries)
    colours = [entry.colour for entry in entries if entry.colour is not None]
    indices = [entry.index for entry in entries if entry.index is not None]
    return ClassNames(
        shown, names, tuple(colours) if len(colours) == len(names) else None,
        tuple(indices) if len(indices) == len(names) else None,
    )  # fmt: skip


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise RmrkdError(
            f"`{path}` cannot be read: {error_reason(error)}", "name another file: --classes FILE"
        ) from error


def _read_lines(path: Path, text: str) -> list[_Entry]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if path.suffix.lower() == ".csv":
        return _read_csv(lines)
    for pattern in (_LABELMAP, _COLOUR_FIRST, _COLOUR_LAST, _INDEX_FIRST):
        matches = [pattern.fullmatch(line) for line in lines]
        if lines and all(matches):
            return [_entry(match.groupdict()) for match in matches if match is not None]
    return [_Entry(line) for line in lines]


def _entry(parts: dict[str, str | None]) -> _Entry:
    colour, index = parts.get("colour"), parts.get("index")
    return _Entry(
        str(parts["name"]).strip(),
        _colour(re.split(r"[\s,]+", colour)) if colour else None,
        int(index) if index else None,
    )


def _read_csv(lines: list[str]) -> list[_Entry]:
    """Read `name,r,g,b` and `Pixel Value, Class`, with a line of headings."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    if not rows:
        return []
    headings = [cell.lower() for cell in rows[0]]
    name = next((headings.index(word) for word in ("name", "class", "label") if word in headings), None)
    if name is None:
        raise ValueError(f"the first line has no column `name` or `class`, but {', '.join(headings)}")
    channels = [headings.index(word) for word in ("r", "g", "b") if word in headings]
    index = next(
        (place for place, word in enumerate(headings) if word in ("pixel value", "index", "id", "value")), None
    )
    return [
        _Entry(
            row[name],
            _colour([row[place] for place in channels]) if len(channels) == 3 else None,
            int(row[index]) if index is not None else None,
        )
        for row in rows[1:]
    ]  # fmt: skip


def _read_json(value: Any) -> list[_Entry]:
    if isinstance(value, dict):
        inner = next((value[key] for key in _KEYS if isinstance(value.get(key), (list, dict))), None)
        if inner is not None:
            return _read_json(inner)
        if value and all(isinstance(one, str) and str(key).isdigit() for key, one in value.items()):
            return [_Entry(one, index=int(key)) for key, one in value.items()]
        if value and all(isinstance(one, int) for one in value.values()):
            return [_Entry(key, index=one) for key, one in value.items()]
        if value and all(isinstance(one, list) for one in value.values()):
            return [_Entry(key, _colour(one)) for key, one in value.items()]
    if isinstance(value, list):
        return [_json_entry(one) for one in value]
    raise ValueError("it is no list of names, and no mapping of indices or colours")


def _json_entry(value: Any) -> _Entry:
    if isinstance(value, str):
        return _Entry(value)
    if not isinstance(value, dict):
        raise ValueError(f"an entry is no name, but {str(value)[:50]}")
    name = next((value[key] for key in ("name", "label", "title") if isinstance(value.get(key), str)), None)
    if name is None:
        raise ValueError("an entry has no `name`")
    colour = next((value[key] for key in ("color", "colour", "rgb") if value.get(key)), None)
    if isinstance(colour, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        colour = list(bytes.fromhex(colour[1:]))
    index = next((value[key] for key in ("id", "index", "value") if isinstance(value.get(key), int)), None)
    return _Entry(name, _colour(colour) if isinstance(colour, list) else None, index)


def _colour(values: Iterable[Any]) -> Colour:
    numbers = tuple(int(value) for value in values)
    if len(numbers) != 3 or not all(0 <= value <= 255 for value in numbers):
        raise ValueError(f"a colour must have three numbers from 0 to 255, got {', '.join(map(str, numbers))}")
    return numbers
