"""Find the suffixes that make the names of images and label maps equal, when those of the preset do not."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.renames import common_prefix, find_rename, splits_number

_PLAIN = re.compile(r"[\w.][\w.+-]*")  # needs no quotes in YAML
_FORBIDDEN = re.compile(r"[/\\*?\[\]]")  # as in `FileSuffix`


def suggest_suffixes(info: DatasetInfo, images: Path, labels: Path, listed: Iterable[str] | None = None) -> str:
    """Return how to make the names of images and label maps fit, or an empty text.

    For data sets other than `custom`, which have fixed suffixes, only renaming is offered.

    Args:
        images, labels: The folders of a split.
        listed: The names in its list; None without a list.
    """
    image_files, label_files = relative_files(images), relative_files(labels)
    names = None if listed is None else set(listed)
    image_names = _stems(image_files, info.image_suffix) if names is None else names
    label_names = _stems(label_files, info.label_suffix) if names is None else names
    fitting = len(
        {name for name in image_names if name + info.image_suffix in image_files}
        & {name for name in label_names if name + info.label_suffix in label_files}
    )
    if info.name != "custom":
        return "" if fitting else _rename_labels(info, image_files, label_files, image_names)
    label_suffix, label_count = best_suffix(label_files, image_names, info.label_suffix)
    image_suffix, image_count = best_suffix(image_files, label_names, info.image_suffix)
    both_count, *both = common_suffixes(image_files, label_files) if names is None else (0,)
    most = max(label_count, image_count, both_count)
    if most > fitting:
        if most == label_count:
            return _set({"label_suffix": (label_suffix, info.label_suffix)})
        if most == image_count:
            return _set({"image_suffix": (image_suffix, info.image_suffix)})
        return _set({"image_suffix": (both[0], info.image_suffix), "label_suffix": (both[1], info.label_suffix)})
    for key, suffix, count, now in (
        ("label_suffix", label_suffix, label_count, info.label_suffix),
        ("image_suffix", image_suffix, image_count, info.image_suffix),
    ):
        if count:
            return (
                f"the folder mixes suffixes ({fitting} names fit `data.{key}: {now}`, {count} would fit `{suffix}`), "
                f"and one is read: rename the others to end in `{now}`; their contents may stay as they are"
            )
    return "" if fitting else _rename_labels(info, image_files, label_files, image_names)


def _rename_labels(info: DatasetInfo, images: set[str], labels: set[str], names: Collection[str]) -> str:
    """Return how to rename the label maps where none has the name of an image; an empty text without such files.

    Args:
        names: Of the images, or in a list.
    """
    existing = {name for name in names if name + info.image_suffix in images}
    if not images or not labels or (names and not existing):
        return ""
    if not existing:
        ending = common_endings(images)[:1]
        return f"set `data.image_suffix: {ending[0]}` in the preset, as the images end" if ending else ""
    rule = "an image and its label map must have equal names up to the suffix: "
    rename = find_rename(labels, info.label_suffix, existing)
    if rename is None:
        name = min(existing)
        return f"{rule}rename the label maps, the one of `{name}{info.image_suffix}` to `{name}{info.label_suffix}`"
    text = f"{rule}rename each label map, such as `{rename.old}` → `{rename.new}`"
    if info.name == "custom" and rename.suffix != info.label_suffix:
        text += f", and set `data.label_suffix: {_quoted(rename.suffix)}` in the preset"
    return text


def relative_files(folder: Path) -> set[str]:
    """Return the files below a folder, relative to it."""
    found: set[str] = set()
    for parent, _, names in os.walk(folder):
        below = Path(parent).relative_to(folder).as_posix()
        found.update(name if below == "." else f"{below}/{name}" for name in names if not name.startswith("."))
    return found


def common_endings(files: Iterable[str]) -> list[str]:
    """Return the suffixes of files, from their last dot, most frequent first."""
    counts = Counter(Path(file).suffix for file in files)
    return [suffix for suffix, _ in counts.most_common() if suffix]


def _stems(files: Iterable[str], suffix: str) -> set[str]:
    return {file[: -len(suffix)] for file in files if file.endswith(suffix)}


def best_suffix(files: Iterable[str], names: Collection[str], now: str) -> tuple[str, int]:
    """Return the suffix, other than `now`, that completes the most names to a file, and their number."""
    counts: Counter[str] = Counter()
    for file in files:
        if file.endswith(now) and file[: -len(now)] in names:
            continue
        start = file.rfind("/") + 1
        counts.update(
            file[end:]
            for end in range(start + 1, len(file))
            if file[:end] in names and not splits_number(file, end) and not _FORBIDDEN.search(file[end:])
        )
    return max(counts.items(), key=lambda item: (item[1], len(item[0])), default=("", 0))


def common_suffixes(images: Iterable[str], labels: Iterable[str]) -> tuple[int, str, str]:
    """Return the longest common endings of all images and of all label maps, and how many names are equal then."""
    ends = [_common_end(images), _common_end(labels)]
    if not all(ends) or any(_FORBIDDEN.search(end) for end in ends):
        return 0, "", ""
    stems = [{name for name in _stems(files, end) if name} for files, end in zip((images, labels), ends, strict=True)]
    return len(stems[0] & stems[1]), ends[0], ends[1]


def _common_end(files: Iterable[str]) -> str:
    return common_prefix([file[::-1] for file in files])[::-1].lstrip("/")


def _set(suffixes: dict[str, tuple[str, str]]) -> str:
    changes = " and ".join(f"`data.{key}: {_quoted(suffix)}` (now {now})" for key, (suffix, now) in suffixes.items())
    return f"set {changes} in the preset: then images and label maps have equal names"


def _quoted(suffix: str) -> str:
    return suffix if _PLAIN.fullmatch(suffix) else repr(suffix)
