"""The image and label files of a data set, found and paired before anything else starts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from rmrkd_cli.data.datasets import DatasetInfo, Split
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.storage.regular_file import read_regular, why

MOST_LIST_BYTES = 1 << 26  # three million names


@dataclass(frozen=True)
class Sample:
    """One image, its label file, and its name within the data set."""

    name: str
    image: Path
    label: Path


def find_samples(info: DatasetInfo, split: str, *, labels: bool = True) -> list[Sample]:
    """All samples of a split, ordered by name; a generated data set is drawn first where it is missing.

    Args:
        labels: Where not, label files may all be missing, as a test server's are; see `have_labels`.

    Raises:
        RmrkdError: When the root, a folder, a list or a label is missing; the message shows the expected tree.
    """
    if split not in info.splits:
        raise RmrkdError(f"`{info.name}` has no split `{split}`, {did_you_mean(split, info.splits)}")
    if info.make is not None:
        info.make(info.root)
    if not info.root.is_dir():
        raise RmrkdError(
            f"data root `{info.root}` does not exist; `{info.name}` is expected as\n{expected_tree(info, [split])}",
            "give its place with --data-root DIR",
        )
    layout = info.splits[split]
    optional = () if labels else {part for _, part in layout.parts} - {layout.images}
    missing = [part for part in missing_parts(info, split) if part not in optional]
    if missing:
        raise RmrkdError(
            f"`{info.root}` lacks {', '.join(f'`{part}`' for part in missing)}; `{info.name}` is expected as\n"
            f"{expected_tree(info, [split])}",
            fix_for_part(info, missing),
        )
    samples = [sample for names, labels in layout.parts for sample in _pair(info, layout.images, names, labels)]
    if not samples:
        raise RmrkdError(f"no image ends with `{info.image_suffix}` in `{info.root / layout.images}`")
    _check_files(samples, info, ("image", "label") if labels or have_labels(samples) else ("image",))
    return sorted(samples, key=lambda sample: sample.name)


def have_labels(samples: Iterable[Sample]) -> bool:
    """Whether any of them has a label file."""
    return any(sample.label.is_file() for sample in samples)


def fingerprint(samples: Iterable[Sample]) -> str:
    """Twelve hex digits that name a set of samples: two results are comparable only when it agrees."""
    return hashlib.sha256("\n".join(sample.name for sample in samples).encode()).hexdigest()[:12]


def expected_tree(info: DatasetInfo, splits: Iterable[str]) -> str:
    """The folders a data set needs, one a line, with a file name as example."""
    lines = [f"  {info.root}/"]
    for split in splits:
        layout = info.splits[split]
        lines.append(f"    {layout.images}/NAME{info.image_suffix}")
        for names, labels in layout.parts:
            lines.append(f"    {labels}/NAME{info.label_suffix}")
            if names is not None:
                lines.append(f"    {names}    (one NAME a line)")
    return "\n".join(lines)


class Line(NamedTuple):
    """One name of a list, where it stands, and why it cannot name a file of the data set (empty when it can)."""

    number: int
    name: str
    problem: str


def read_lines(path: Path) -> list[Line]:
    """The names in a list file; blank lines are left out.

    Raises:
        RmrkdError: When it is no text, or more than `MOST_LIST_BYTES`.
    """
    try:
        text = read_regular(path, MOST_LIST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        told = why(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RmrkdError(f"the list `{path}` cannot be read: {told}", "one NAME a line, without suffix") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    stripped = enumerate((line.strip() for line in lines), 1)
    return [Line(number, name, _name_problem(name)) for number, name in stripped if name]


def _name_problem(name: str) -> str:
    """Predictions are written under these names, so none may lead out of a folder."""
    if "\0" in name:
        return "holds a NUL character"
    if name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        return "is an absolute path"
    return "leads out of its folder" if ".." in name.replace("\\", "/").split("/") else ""


def _read_list(path: Path) -> list[str]:
    lines = read_lines(path)
    bad = next((line for line in lines if line.problem), None)
    if bad is not None:
        raise RmrkdError(
            f"`{path}` line {bad.number}: the name {bad.name!r} {bad.problem}", "one NAME a line, as `2007_000032`"
        )
    return [line.name for line in lines]


def missing_parts(info: DatasetInfo, split: str) -> list[str]:
    """Folders and lists of a split that are not there, relative to the root."""
    return [part for part in _needed(info.splits[split]) if not (info.root / part).exists()]


def _needed(layout: Split) -> list[str]:
    parts = [part for pair in layout.parts for part in pair if part is not None]
    return list(dict.fromkeys([layout.images, *parts]))


def _pair(info: DatasetInfo, images: str, names: str | None, labels: str) -> list[Sample]:
    folder = info.root / images
    if names is not None:
        stems = _read_list(info.root / names)
    else:
        found = sorted(folder.rglob(f"*{info.image_suffix}"))
        stems = [path.relative_to(folder).as_posix()[: -len(info.image_suffix)] for path in found]
    return [
        Sample(stem, folder / (stem + info.image_suffix), info.root / labels / (stem + info.label_suffix))
        for stem in stems
    ]


def _check_files(samples: list[Sample], info: DatasetInfo, kinds: Iterable[str]) -> None:
    for kind in kinds:
        lost = [getattr(sample, kind) for sample in samples if not getattr(sample, kind).is_file()]
        if not lost:
            continue
        mend = fix_for_missing(info) if kind == "label" else ""
        hint = f"{mend}; all: {check_command(info)}" if mend else f"all that is wrong: {check_command(info)}"
        raise RmrkdError(f"{len(lost)} of {len(samples)} {kind} files are missing, first `{lost[0]}`", hint)


def check_command(info: DatasetInfo) -> str:
    """What names everything that is wrong."""
    described = " --preset FILE" if info.name == "custom" else ""
    return f"rmrkd data check {info.name}{described} --data-root {info.root}"


def fix_for_part(info: DatasetInfo, parts: Iterable[str]) -> str:
    """What to do about folders and lists that are not there."""
    if info.name == "custom":
        return "name what is there under `data` of the preset, or give the root with --data-root DIR"
    made = all(Path(part).name in ("aug.txt", "SegmentationClassAug") for part in parts)
    return fix_for_missing(info) if made else "give its place with --data-root DIR"


def fix_for_missing(info: DatasetInfo) -> str:
    """What makes labels that a data set does not come with."""
    if info.name == "cityscapes":
        return (
            f"the labelTrainIds files are made from gtFine by `rmrkd data prepare cityscapes --data-root {info.root}`"
        )
    if info.name == "voc12aug":
        return (
            "SegmentationClassAug and aug.txt are made from SBD by "
            f"`rmrkd data prepare voc12aug --data-root {info.root} --sbd benchmark_RELEASE`"
        )
    return ""
