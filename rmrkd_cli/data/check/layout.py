"""The tree of a data set, looked over without opening a picture: all that is missing, twice, or in two splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rmrkd_cli.data.check.findings import ERROR, NOTE, Finding
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.samples import Line, Sample, fix_for_missing, fix_for_part, missing_parts, read_lines
from rmrkd_cli.errors import RmrkdError

_ALWAYS = ("train", "val")
_SHOWN = 3


def present_splits(info: DatasetInfo) -> list[str]:
    """Splits that are to be there, and further ones that have labels: public test sets have none."""
    return [split for split in info.splits if split in _ALWAYS or info.name == "custom" or _has_labels(info, split)]


def scan(info: DatasetInfo, split: str) -> tuple[list[Sample], list[Finding]]:
    """The pairs of a split whose files are both there, and everything that keeps others from being one."""
    layout = info.splits[split]
    missing = missing_parts(info, split)
    findings = [
        Finding(ERROR, "missing-part", split, str(info.root / part), "does not exist", fix_for_part(info, [part]))
        for part in missing
    ]
    samples: list[Sample] = []
    for names, labels in layout.parts:
        if layout.images in missing or labels in missing or names in missing:
            continue
        if names is None:
            pairs, found = _from_folders(info, split, labels)
        else:
            pairs, found = _from_list(info, split, names, labels, {sample.name for sample in samples})
        samples += pairs
        findings += found
    if not samples and not findings:
        place = info.root / layout.images
        text = f"no image ends with `{info.image_suffix}`"
        findings.append(Finding(ERROR, "no-images", split, str(place), text, _mend_of_empty(info, place)))
    return sorted(samples, key=lambda sample: sample.name), findings


def leaks(info: DatasetInfo, samples: Mapping[str, Iterable[Sample]]) -> list[Finding]:
    """Images that are in two splits: what is measured on them says nothing."""
    findings: list[Finding] = []
    owners: dict[Path, str] = {}
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
            findings.append(Finding(ERROR, "leak", split, str(sample.image), text, "take it out of one of the lists"))
    for owner, split in sorted(same):
        text = f"`{split}` is the same images as `{owner}`"
        findings.append(
            Finding(NOTE, "leak", split, str(info.root / info.splits[split].images), text, "results on it say little")
        )
    return findings


def _has_labels(info: DatasetInfo, split: str) -> bool:
    if missing_parts(info, split):
        return False
    return any(
        next((info.root / labels).rglob(f"*{info.label_suffix}"), None) is not None
        for _, labels in info.splits[split].parts
    )


def _from_folders(info: DatasetInfo, split: str, labels: str) -> tuple[list[Sample], list[Finding]]:
    layout = info.splits[split]
    image_root, label_root = info.root / layout.images, info.root / labels
    images = _stems(image_root, info.image_suffix)
    masks = _stems(label_root, info.label_suffix)
    samples = [Sample(stem, images[stem], masks[stem]) for stem in images.keys() & masks.keys()]
    findings = [
        Finding(ERROR, "missing-label", split, str(images[stem]), *_no_label(info, label_root, stem))
        for stem in sorted(images.keys() - masks.keys())
    ]
    if _own_labels(info, split, labels):
        findings += [
            Finding(ERROR, "missing-image", split, str(masks[stem]), *_no_image(info, image_root, stem))
            for stem in sorted(masks.keys() - images.keys())
        ]
    return samples, findings


def _from_list(
    info: DatasetInfo, split: str, names: str, labels: str, before: set[str]
) -> tuple[list[Sample], list[Finding]]:
    """Folders of data sets with lists hold files of all splits, so that a file without a name is no finding."""
    path, image_root, label_root = info.root / names, info.root / info.splits[split].images, info.root / labels
    try:
        lines = read_lines(path)
    except RmrkdError as error:
        return [], [
            Finding(ERROR, "bad-list", split, str(path), error.message.removeprefix(f"the list `{path}` "), error.hint)
        ]
    findings, samples, seen = [], [], dict.fromkeys(before, "an earlier list")
    for line in lines:
        found = _bad_line(line, seen)
        seen.setdefault(line.name, f"line {line.number}")
        if found is not None:
            findings.append(Finding(ERROR, found[0], split, str(path), *found[1:]))
            continue
        sample = Sample(
            line.name, image_root / (line.name + info.image_suffix), label_root / (line.name + info.label_suffix)
        )
        there = sample.image.is_file(), sample.label.is_file()
        if all(there):
            samples.append(sample)
        elif not any(there):
            text = f"line {line.number}: `{line.name}` has neither image nor label"
            findings.append(Finding(ERROR, "missing-pair", split, str(path), text, _mend_of_name(line.name)))
        elif there[0]:
            why = _no_label(info, label_root, line.name)
            findings.append(Finding(ERROR, "missing-label", split, str(sample.image), *why))
        else:
            why = _no_image(info, image_root, line.name)
            findings.append(Finding(ERROR, "missing-image", split, str(sample.label), *why))
    if not lines:
        findings.append(Finding(ERROR, "bad-list", split, str(path), "is empty", "one NAME a line, without suffix"))
    return samples, findings


def _bad_line(line: Line, seen: Mapping[str, str]) -> tuple[str, str, str] | None:
    if line.problem:
        text = f"line {line.number}: {line.name!r} {line.problem}"
        return "bad-name", text, "one NAME a line, without folder and suffix"
    if line.name in seen:
        text = f"line {line.number}: `{line.name}` stands in {seen[line.name]} already"
        return "duplicate-name", text, "delete the second one"
    return None


def _no_label(info: DatasetInfo, folder: Path, stem: str) -> tuple[str, str]:
    text = f"has no label `{folder / (stem + info.label_suffix)}`"
    if Path(stem).name.startswith("._"):
        return text, "delete it: it is no image, macOS leaves such files when it copies"
    if info.name == "cityscapes":
        source = next(
            (f"_gtFine_{kind}" for kind in ("labelIds.png", "polygons.json") if _exists(folder, stem, kind)), ""
        )
        return text, (fix_for_missing(info) if source else "unpack gtFine_trainvaltest.zip, " + fix_for_missing(info))
    other = _with_other_suffix(folder, stem)
    if other:
        return text, _mend_of_suffix(info, "label_suffix", other, info.label_suffix)
    return text, (
        fix_for_missing(info) if folder.name == "SegmentationClassAug" else ""
    ) or "restore it, or take the image away"


def _exists(folder: Path, stem: str, kind: str) -> bool:
    return (folder / f"{stem}_gtFine_{kind}").is_file()


def _no_image(info: DatasetInfo, folder: Path, stem: str) -> tuple[str, str]:
    text = f"has no image `{folder / (stem + info.image_suffix)}`"
    other = _with_other_suffix(folder, stem)
    if other:
        return text, _mend_of_suffix(info, "image_suffix", other, info.image_suffix)
    return text, "restore the image, or take the label away"


def _mend_of_suffix(info: DatasetInfo, key: str, other: str, expected: str) -> str:
    if info.name == "custom":
        suffix = Path(other).suffix
        return f"where all end in `{suffix}`, set `data.{key}: {suffix}` in the preset (now {expected})"
    return f"there is `{other}`: its suffix must be `{expected}`"


def _with_other_suffix(folder: Path, stem: str) -> str:
    base = folder / stem
    try:
        return next((path.name for path in sorted(base.parent.iterdir()) if path.stem == base.name), "")
    except OSError:
        return ""


def _own_labels(info: DatasetInfo, split: str, labels: str) -> bool:
    """Whether a folder of labels is this split's alone."""
    mine = info.root / labels
    others = [info.root / part for name, layout in info.splits.items() if name != split for _, part in layout.parts]
    return not any(mine == other or mine in other.parents or other in mine.parents for other in others)


def _stems(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix()[: -len(suffix)]: path for path in folder.rglob(f"*{suffix}")}


def _mend_of_empty(info: DatasetInfo, folder: Path) -> str:
    others = sorted({path.suffix for path in folder.rglob("*") if path.is_file()})[:_SHOWN]
    found = f"files there end with {', '.join(f'`{suffix}`' for suffix in others)}; " if others else ""
    return f"{found}give the data set's place with --data-root DIR"


def _mend_of_name(name: str) -> str:
    if len(name.split()) > 1:
        return "only the name may stand in a line; lists of ImageSets/Main have a second column"
    if name.endswith((".jpg", ".png", ".jpeg")):
        return "names stand without suffix"
    return "restore both files, or delete the line"
