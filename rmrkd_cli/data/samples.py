"""Find the image and label files of a data set and pair them, before anything else starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rmrkd_cli.data.datasets import DatasetInfo, Split
from rmrkd_cli.data.list_names import ListFixer, name_problem
from rmrkd_cli.data.part_listing import list_part
from rmrkd_cli.data.sample_table import KINDS, PartNames, SampleTable, names_digest
from rmrkd_cli.data.sample_table import Sample as Sample
from rmrkd_cli.data.shards import is_shards
from rmrkd_cli.data.suffixes import common_endings, relative_files, suggest_suffixes
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.storage.regular_file import error_reason, read_regular

MAX_LIST_BYTES = 1 << 26  # three million names
_SHOWN = 3  # suffixes
_GENERATED_PARTS = ("aug.txt", "SegmentationClassAug")  # `data prepare voc12aug` makes these


class ListedName(NamedTuple):
    """One line of a list of names.

    Attributes:
        problem: Why the name cannot be a file of the data set; empty if it can.
    """

    number: int
    name: str
    problem: str


def find_samples(info: DatasetInfo, split: str, *, labels: bool = True) -> SampleTable:
    """Return all samples of a split, ordered by name; a missing generated data set is generated first.

    Args:
        labels: If false, all label files may be missing, as in a public test set; see `have_labels`.

    Raises:
        RmrkdError: When the root, a folder, a list, an image or a label file is missing.
    """
    if split not in info.splits:
        raise RmrkdError(f"`{info.name}` has no split `{split}`, {did_you_mean(split, info.splits)}")
    if info.generate is not None:
        info.generate(info.root)
    if not info.root.is_dir():
        raise RmrkdError(
            f"data root `{info.root}` does not exist; the layout of `{info.name}` is\n{expected_tree(info, [split])}",
            "give the folder of the data set with --data-root DIR",
        )
    layout = info.splits[split]
    optional = set() if labels else {part for _, part in layout.parts} - {layout.images}
    missing = [part for part in find_missing_parts(info, split) if part not in optional]
    if missing:
        raise RmrkdError(
            f"{', '.join(f'`{part}`' for part in missing)} missing in `{info.root}`; the layout of `{info.name}` is\n"
            f"{expected_tree(info, [split])}",
            fix_for_parts(info, missing),
        )
    parts = [
        list_part(info, layout.images, labels, None if names is None else read_valid_names(info.root / names))
        for names, labels in layout.parts
    ]
    if not any(part.names for part in parts):
        folder = info.root / layout.images
        raise RmrkdError(f"`{folder}` {describe_missing_images(info, folder)}", fix_missing_images(info, split))
    _check_exist(parts, info, split, labels=labels)
    return SampleTable(parts)


def have_labels(samples: SampleTable) -> bool:
    """Return whether any sample has a label file."""
    return samples.have_labels()


def fingerprint(samples: Sequence[Sample]) -> str:
    """Return 12 hex digits that identify a set of samples; results are comparable only if they are equal."""
    digest = samples.digest() if isinstance(samples, SampleTable) else names_digest(sample.name for sample in samples)
    return digest[:12]


def expected_tree(info: DatasetInfo, splits: Iterable[str]) -> str:
    """Return the folders and lists that a data set needs, one per line, with example file names."""
    lines = [f"  {info.root}/"]
    for split in splits:
        layout = info.splits[split]
        lines.append(f"    {_file_in(layout.images)}NAME{info.image_suffix}")
        for names, labels in layout.parts:
            if labels is not None:
                lines.append(f"    {_file_in(labels)}NAME{info.label_suffix}")
            if names is not None:
                lines.append(f"    {names}    (one NAME a line)")
    return "\n".join(lines)


def _file_in(place: str) -> str:
    return f"{place}: " if is_shards(place) else f"{place}/"


def read_name_list(path: Path) -> list[ListedName]:
    """Return the names in a list file, without blank lines.

    Raises:
        RmrkdError: When the file is not UTF-8 text, or larger than `MAX_LIST_BYTES`.
    """
    try:
        text = read_regular(path, MAX_LIST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error_reason(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RmrkdError(
            f"the list `{path}` cannot be read: {reason}", "write one NAME per line, without suffix"
        ) from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    stripped = enumerate((line.strip() for line in lines), 1)
    return [ListedName(number, name, name_problem(name)) for number, name in stripped if name]


def read_valid_names(path: Path) -> list[str]:
    """Return the names in a list file.

    Raises:
        RmrkdError: As `read_name_list`, and when a name is invalid.
    """
    lines = read_name_list(path)
    invalid = next((line for line in lines if line.problem), None)
    if invalid is not None:
        raise RmrkdError(
            f"`{path}` line {invalid.number}: the name {invalid.name!r} {invalid.problem}",
            "write one NAME per line, such as `2007_000032`",
        )
    return [line.name for line in lines]


def find_missing_parts(info: DatasetInfo, split: str) -> list[str]:
    """Return the folders and lists of a split that do not exist, relative to the root."""
    parts = _required_parts(info.splits[split])
    return [part for part in parts if not is_shards(part) and not (info.root / part).exists()]


def data_check_command(info: DatasetInfo) -> str:
    """Return the command that lists every problem of a data set."""
    what = "--preset FILE" if info.name == "custom" else info.name
    return f"rmrkd data check {what} --data-root {info.root}"


def fix_for_parts(info: DatasetInfo, parts: Iterable[str]) -> str:
    """Return how to fix missing folders and lists."""
    if info.name == "custom":
        return "correct the folder names under `data` of the preset, or give the data root with --data-root DIR"
    if all(Path(part).name in _GENERATED_PARTS for part in parts):
        return fix_for_missing(info)
    return "give the folder of the data set with --data-root DIR"


def fix_for_missing(info: DatasetInfo) -> str:
    """Return the command that makes label maps which the data set is published without, or an empty text."""
    if info.name == "cityscapes":
        return f"make the labelTrainIds files from gtFine: `rmrkd data prepare cityscapes --data-root {info.root}`"
    if info.name == "voc12aug":
        return (
            "make SegmentationClassAug and aug.txt from SBD: "
            f"`rmrkd data prepare voc12aug --data-root {info.root} --sbd benchmark_RELEASE`"
        )
    return ""


def describe_missing_images(info: DatasetInfo, folder: Path) -> str:
    """Return why a folder has no image of the data set; a sentence whose subject is the folder."""
    if not relative_files(folder):
        return f"is empty: no image ends in `{info.image_suffix}`"
    return f"contains no image that ends in `{info.image_suffix}`"


def fix_missing_images(info: DatasetInfo, split: str) -> str:
    """Return how to fix the image folder of a split that has no image."""
    endings = common_endings(relative_files(info.root / info.splits[split].images))[:_SHOWN]
    if info.name == "custom" and endings:
        return (
            _fix_for_files(info, split)
            or f"set `data.image_suffix: {endings[0]}` in the preset, as the files there end"
        )
    if info.name == "custom":
        return f"put images there, or correct `data.{split}.images` in the preset"
    found = f"the files there end in {', '.join(f'`{ending}`' for ending in endings)}; " if endings else ""
    return f"{found}give the folder of the data set with --data-root DIR"


def _fix_for_files(info: DatasetInfo, split: str) -> str:
    """Return how to fix missing files by other names in a list, or for custom data by other suffixes."""
    layout = info.splits[split]
    images = info.root / layout.images
    for part, folder in layout.parts:
        if folder is None or is_shards(folder) or is_shards(layout.images):
            continue
        labels, names = info.root / folder, read_valid_names(info.root / part) if part else None
        unknown = [
            name
            for name in names or ()
            if not (images / (name + info.image_suffix)).is_file()
            and not (labels / (name + info.label_suffix)).is_file()
        ]
        fixer = ListFixer(info, images, labels)
        if fix := next(filter(None, map(fixer.fix, unknown)), ""):
            return f"in `{info.root / str(part)}`, {fix}"
        if fix := suggest_suffixes(info, images, labels, names):
            return fix
    return ""


def _required_parts(layout: Split) -> list[str]:
    parts = [part for pair in layout.parts for part in pair if part is not None]
    return list(dict.fromkeys([layout.images, *parts]))


def _check_exist(parts: Sequence[PartNames], info: DatasetInfo, split: str, *, labels: bool) -> None:
    """Raise RmrkdError if an image is missing, or a label file where labels are needed or some exist."""
    count = sum(len(listed.names) for listed in parts)
    for kind in KINDS:
        missing = [(listed.part, name) for listed in parts for name in listed.missing(kind)]
        if not missing or (kind == "label" and not labels and len(missing) == count):
            continue
        part, name = missing[0]
        fix = _fix_for_files(info, split) or (fix_for_missing(info) if kind == "label" else "")
        listing = f"list all problems with `{data_check_command(info)}`"
        raise RmrkdError(
            f"{len(missing)} of {count} {kind} files are missing, the first is `{getattr(part.sample(name), kind)}`",
            f"{fix}; {listing}" if fix else listing,
        )
