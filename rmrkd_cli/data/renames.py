"""Find the label map of each image where the names differ by more than a suffix, such as a leading word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

_TRIED = 200  # files: enough to find what all names share
_MIN_LOOSE = 2  # names that must agree where no `_` or `-` separates the additional word


class Rename(NamedTuple):
    """How to name the first file of a folder so that it has the name of its partner.

    Attributes:
        old, new: Paths below the folder.
        suffix: What follows the name in `new`.
    """

    old: str
    new: str
    suffix: str


def find_rename(files: Iterable[str], suffix: str, names: Collection[str]) -> Rename | None:
    """Return the first file's new name, if one rule gives most files a name of the other folder; None otherwise.

    The rule is an additional word before the name, one before the names of the other folder, or another subfolder.

    Args:
        files: Paths below their folder.
        suffix: The suffix that the preset gives them.
        names: The names of the other folder's files, without suffix, as paths below it.
    """
    chosen = sorted(files)
    by_base: dict[str, list[str]] = {}
    for name in names:
        by_base.setdefault(_base(name), []).append(name)
    chosen = chosen[:: max(1, len(chosen) // _TRIED)][:_TRIED]
    return _by_added_word(chosen, by_base) or _by_exchanged_word(chosen, suffix, by_base)


def _by_added_word(files: list[str], by_base: dict[str, list[str]]) -> Rename | None:
    """Return the rename for files that contain the name, with the same text before and after it in most of them."""
    counts: Counter[tuple[str, str]] = Counter()
    for file in files:
        base = _base(file)
        counts.update(
            (base[:start], base[end:])
            for start in range(len(base))
            for end in range(start + 1, len(base))
            if base[start:end] in by_base and not splits_number(base, start) and not splits_number(base, end)
        )
    if not counts:
        return None
    (before, after), count = max(counts.items(), key=lambda item: (item[1], -len(item[0][0] + item[0][1])))
    separated = not before or not before[-1].isalnum()
    if count * 2 < min(len(files), _size(by_base)) or not (separated or count >= _MIN_LOOSE):
        return None
    for file in files:
        base = _base(file)
        name = base[len(before) : len(base) - len(after)]
        if base == before + name + after and (target := _target(file, by_base.get(name, []))):
            return Rename(file, target + after, after)
    return None


def _by_exchanged_word(files: list[str], suffix: str, by_base: dict[str, list[str]]) -> Rename | None:
    """Return the rename for files and names that each begin with a word of their own, such as `mask_1` and `img_1`."""
    stems = {file: _base(file)[: -len(suffix)] for file in files if file.endswith(suffix)}
    before, other = _shared_start(list(stems.values())), _shared_start(by_base)
    if not stems or before == other:
        return None
    targets = {
        file: _target(file, by_base.get(other + stem[len(before) :], []))
        for file, stem in stems.items()
        if stem[len(before) :]
    }
    found = [(file, target) for file, target in targets.items() if target]
    if len(found) < _MIN_LOOSE or len(found) * 2 < min(len(stems), _size(by_base)):
        return None
    file, target = found[0]
    return Rename(file, target + suffix, suffix)


def _target(file: str, names: list[str]) -> str:
    """Return the name in the file's own subfolder, or the only one."""
    parent = PurePosixPath(file).parent
    beside = [name for name in names if PurePosixPath(name).parent == parent]
    return beside[0] if beside else names[0] if len(names) == 1 else ""


def _shared_start(bases: Collection[str]) -> str:
    """Return the text with which all names begin, without digits at its end: those may belong to a number."""
    return common_prefix(bases).rstrip("0123456789")


def common_prefix(texts: Collection[str]) -> str:
    """Return the characters with which all texts begin."""
    first, last = min(texts, default=""), max(texts, default="")  # in order, so all others lie between them
    length = next((place for place, letter in enumerate(first) if last[place] != letter), len(first))
    return first[:length]


def splits_number(text: str, place: int) -> bool:
    """Return whether a cut at a place divides a number: `p10` is not `p1` with the ending `0`."""
    return 0 < place < len(text) and text[place - 1].isdigit() and text[place].isdigit()


def _size(by_base: dict[str, list[str]]) -> int:
    return sum(map(len, by_base.values()))


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]
