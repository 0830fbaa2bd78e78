"""Check the folders, lists and names of a data set, without opening an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from rmrkd_cli.data.check.findings import ERROR, NOTE, Finding
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.list_names import ListFixer
from rmrkd_cli.data.samples import (
    ListedName,
    Sample,
    describe_missing_images,
    find_missing_parts,
    find_samples,
    fix_for_missing,
    fix_for_parts,
    fix_missing_images,
    read_name_list,
)
from rmrkd_cli.data.shards import is_shards
from rmrkd_cli.data.source_file import SourceFile
from rmrkd_cli.data.suffixes import relative_files, suggest_suffixes
from rmrkd_cli.data.unlabelled import UNLABELLED, find_unlabelled
from rmrkd_cli.errors import RmrkdError

_REQUIRED_SPLITS = ("train", "val")
_FIX_LIST = "write one NAME per line, without folder and suffix"


def available_splits(info: DatasetInfo) -> list[str]:
    """Return the required splits, and the others that have labels; public test sets have none."""
    return [
        split for split in info.splits if split in _REQUIRED_SPLITS or info.name == "custom" or _has_labels(info, split)
    ]


def find_pairs(info: DatasetInfo, split: str) -> tuple[Sequence[Sample], list[Finding]]:
    """Return the complete pairs of a split, and a finding for everything that is missing."""
    layout = info.splits[split]
    missing = find_missing_parts(info, split)
    findings = [
        Finding(ERROR, "missing-part", split, str(info.root / part), "does not exist", fix_for_parts(info, [part]))
        for part in missing
    ]
    samples: list[Sample] = []
    for names, labels in layout.parts:
        if layout.images in missing or labels in missing or names in missing:
            continue
        if labels is None or is_shards(labels) or is_shards(layout.images):
            return _as_training_finds(info, split, findings)
        if names is None:
            pairs, found = _pairs_of_folders(info, split, labels)
        else:
            pairs, found = _pairs_of_list(info, split, names, labels, {sample.name for sample in samples})
        samples += pairs
        findings += found
    if not samples and not findings:
        folder = info.root / layout.images
        text = describe_missing_images(info, folder)
        findings.append(Finding(ERROR, "no-images", split, str(folder), text, fix_missing_images(info, split)))
    return sorted(samples, key=lambda sample: sample.name), findings


def find_leaks(info: DatasetInfo, samples: Mapping[str, Iterable[Sample]]) -> list[Finding]:
    """Return a finding for each image that belongs to two splits, or one note if both splits have the same layout."""
    findings: list[Finding] = []
    owners: dict[SourceFile, str] = {}
    same: set[tuple[str, str]] = set()
    for split, members in samples.items():
        for sample in members:
            owner = owners.setdefault(sample.image, split)
            if owner == split:
                continue
            if info.splits[owner] == info.splits[split]:
                same.add((owner, split))
                continue
            text = f"is in `{owner}` and in `{split}`"
            findings.append(Finding(ERROR, "leak", split, str(sample.image), text, "remove it from one of the lists"))
    for owner, split in sorted(same):
        text = f"is the image folder of `{split}` and of `{owner}`"
        fix = f"use other images for `{split}`: results on images of another split do not measure generalization"
        findings.append(Finding(NOTE, "leak", split, str(info.root / info.splits[split].images), text, fix))
    return findings


def _has_labels(info: DatasetInfo, split: str) -> bool:
    if find_missing_parts(info, split):
        return False
    return any(
        next((info.root / labels).rglob(f"*{info.label_suffix}"), None) is not None
        for _, labels in info.splits[split].parts
        if labels is not None
    )


def _as_training_finds(
    info: DatasetInfo, split: str, findings: list[Finding]
) -> tuple[Sequence[Sample], list[Finding]]:
    """Return the samples of a split in archives or without label maps; the first problem is the only one."""
    try:
        return find_samples(info, split), findings
    except RmrkdError as error:
        folder = str(info.root / info.splits[split].images)
        return [], [
            *findings,
            Finding(ERROR, "missing-image", split, folder, f"is incomplete: {error.message}", error.hint),
        ]


def find_unlabelled_images(info: DatasetInfo) -> tuple[Sequence[Sample], list[Finding]]:
    """Return the unlabelled images of a data set, and a finding if they cannot be found."""
    if info.unlabelled is None:
        return [], []
    try:
        return find_unlabelled(info.unlabelled), []
    except RmrkdError as error:
        folder = str(info.unlabelled.folder)
        return [], [Finding(ERROR, "no-images", UNLABELLED, folder, f"cannot be used: {error.message}", error.hint)]


def _pairs_of_folders(info: DatasetInfo, split: str, labels: str) -> tuple[list[Sample], list[Finding]]:
    image_root, label_root = info.root / info.splits[split].images, info.root / labels
    images = _files_by_name(image_root, info.image_suffix)
    masks = _files_by_name(label_root, info.label_suffix)
    samples = [Sample(name, images[name], masks[name]) for name in images.keys() & masks.keys()]
    alone = {"image": sorted(images.keys() - masks.keys()), "label": sorted(masks.keys() - images.keys())}
    if not _is_folder_of_one_split(info, split, labels):
        alone["label"] = []
    if images and not masks and not relative_files(label_root):
        text, fix = f"is empty, and `{split}` has {len(images)} images", "put the label maps there, or correct its name"
        return samples, [Finding(ERROR, "missing-label", split, str(label_root), text, fix)]
    if not images and not relative_files(image_root):
        return samples, []  # one finding about the folder says more than one about each label map
    fix = suggest_suffixes(info, image_root, label_root) if any(alone.values()) else ""
    findings = [_missing_label(info, split, images[name], label_root, name, fix) for name in alone["image"]]
    findings += [_missing_image(info, split, masks[name], image_root, name, fix) for name in alone["label"]]
    return samples, findings


def _pairs_of_list(
    info: DatasetInfo, split: str, names: str, labels: str, earlier_names: set[str]
) -> tuple[list[Sample], list[Finding]]:
    """Return the pairs that a list names; files that it does not name may belong to another split."""
    path, image_root, label_root = info.root / names, info.root / info.splits[split].images, info.root / labels
    try:
        lines = read_name_list(path)
    except RmrkdError as error:
        text = error.message.removeprefix(f"the list `{path}` ")
        return [], [Finding(ERROR, "bad-list", split, str(path), text, error.hint)]
    if not lines:
        return [], [Finding(ERROR, "bad-list", split, str(path), "is empty", _FIX_LIST)]
    fixer = ListFixer(info, image_root, label_root)
    findings, samples, seen, unknown = [], [], dict.fromkeys(earlier_names, "an earlier list"), []
    valid = [line.name for line in lines if not line.problem]
    suffix_fix = cache(partial(suggest_suffixes, info, image_root, label_root, valid))  # it searches both folders
    for line in lines:
        problem = _name_problem(line, seen, fixer)
        seen.setdefault(line.name, f"line {line.number}")
        if problem is not None:
            kind, text, fix = problem
            findings.append(Finding(ERROR, kind, split, str(path), f"line {line.number}: {text}", fix))
            continue
        image, label = image_root / (line.name + info.image_suffix), label_root / (line.name + info.label_suffix)
        if image.is_file() and label.is_file():
            samples.append(Sample(line.name, image, label))
        elif image.is_file():
            findings.append(_missing_label(info, split, image, label_root, line.name, suffix_fix()))
        elif label.is_file():
            findings.append(_missing_image(info, split, label, image_root, line.name, suffix_fix()))
        else:
            unknown.append(line)
    example = fixer.example() if len(unknown) == len(lines) else ""
    for line in unknown:
        text = f"line {line.number}: `{line.name}` has neither an image nor a label map"
        fix = fixer.fix(line.name) or suffix_fix() or example or "restore both files, or delete the line"
        findings.append(Finding(ERROR, "missing-pair", split, str(path), text, fix))
    return samples, findings


def _name_problem(line: ListedName, seen: Mapping[str, str], fixer: ListFixer) -> tuple[str, str, str] | None:
    """Return the kind, text and fix of a problem with a listed name."""
    if line.problem:
        return "bad-name", f"{line.name!r} {line.problem}", fixer.fix(line.name) or _FIX_LIST
    if line.name in seen:
        return "duplicate-name", f"`{line.name}` is already in {seen[line.name]}", "delete the second one"
    return None


def _missing_label(
    info: DatasetInfo, split: str, image: Path, folder: Path, name: str, suffix_fix: str = ""
) -> Finding:
    text = f"has no label map `{folder / (name + info.label_suffix)}`"
    fix = suffix_fix or _fix_suffix(info, "label_suffix", folder, name) or "restore the label map, or remove the image"
    if image.name.startswith("._"):
        fix = "delete it: it is not an image, macOS creates such `._` files when it copies a folder"
    elif info.name == "cityscapes":
        sources = [folder / f"{name}_gtFine_{kind}" for kind in ("labelIds.png", "polygons.json")]
        unpack = "" if any(source.is_file() for source in sources) else "unpack gtFine_trainvaltest.zip, then "
        fix = unpack + fix_for_missing(info)
    elif folder.name == "SegmentationClassAug" and not _file_of_other_suffix(folder, name):
        fix = fix_for_missing(info) or fix
    return Finding(ERROR, "missing-label", split, str(image), text, fix)


def _missing_image(
    info: DatasetInfo, split: str, label: Path, folder: Path, name: str, suffix_fix: str = ""
) -> Finding:
    text = f"has no image `{folder / (name + info.image_suffix)}`"
    fix = suffix_fix or _fix_suffix(info, "image_suffix", folder, name) or "restore the image, or remove the label map"
    return Finding(ERROR, "missing-image", split, str(label), text, fix)


def _fix_suffix(info: DatasetInfo, key: str, folder: Path, name: str) -> str:
    other, expected = _file_of_other_suffix(folder, name), getattr(info, key)
    if not other or info.name == "custom":
        return ""
    return f"`{other}` exists: rename it to end in `{expected}`"


def _file_of_other_suffix(folder: Path, name: str) -> str:
    base = folder / name
    try:
        return next((path.name for path in sorted(base.parent.iterdir()) if path.stem == base.name), "")
    except OSError:
        return ""


def _is_folder_of_one_split(info: DatasetInfo, split: str, labels: str) -> bool:
    folder = info.root / labels
    parts = [part for name, layout in info.splits.items() if name != split for _, part in layout.parts]
    others = [info.root / part for part in parts if part is not None]
    return not any(folder == other or folder in other.parents or other in folder.parents for other in others)


def _files_by_name(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix()[: -len(suffix)]: path for path in folder.rglob(f"*{suffix}")}
