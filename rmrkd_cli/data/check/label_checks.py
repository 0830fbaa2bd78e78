"""Check the scanned files of a split: unreadable files, sizes, and label values with their usual mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rmrkd_cli.data.check.findings import ERROR, NOTE, Finding
from rmrkd_cli.data.check.image_checks import check_image, check_value_ranges, fix_corrupt
from rmrkd_cli.data.check.pair_scan import PairScan, ScannedSplit
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.label_io import COLOURS, LOSSY, fix_lossy
from rmrkd_cli.data.sample_reader import IGNORE, fix_unknown_labels, label_tables
from rmrkd_cli.data.samples import Sample

_CITYSCAPES_IDS = range(34)
_BORDER_SHARE = 0.1  # of a label map: up to this share, 255 counts as an ignored border
_SHOWN = 5
_FIX_SIZE = "do not resize either file: find the label map made for this image"
_FIX_ROTATION = (
    "the image is rotated when it is read (EXIF orientation), and its label map is not: remove the orientation from "
    "the image with `exiftool -Orientation= FILE`, or rotate the label map"
)
_FIX_BINARY = "255 is the ignored value, so only class 0 would be learned: replace 255 by the class index 1"


@dataclass(frozen=True)
class LabelValues:
    """The label values that a data set allows and ignores, those present in a split, and all that are not allowed.

    Attributes:
        unknown: In all splits, so that one setting fixes every file.
    """

    info: DatasetInfo
    allowed: frozenset[int]
    ignored: frozenset[int]
    present: frozenset[int]
    unknown: frozenset[int]

    def describe(self) -> str:
        """Return the allowed values in words."""
        first = 1 if self.info.reduce_zero_label else 0
        classes = f"{first}..{first + self.info.num_classes - 1}"
        return f"classes are {classes}, ignored values {_join(self.ignored) or 'none'}"


def check_labels(
    info: DatasetInfo, split: str, scans: ScannedSplit, all_scans: Iterable[PairScan] = ()
) -> list[Finding]:
    """Return all findings about the contents of a split's files.

    Args:
        all_scans: Of all splits, whose unknown label values are offered together.
    """
    classes_of, allowed = label_tables(info)
    present = frozenset(value for _, scan in scans for value in scan.label_counts)
    everywhere = present.union(*(scan.label_counts for scan in all_scans))
    values = LabelValues(
        info,
        frozenset(np.flatnonzero(allowed).tolist()),
        frozenset(np.flatnonzero(classes_of == IGNORE).tolist()),
        present,
        frozenset(value for value in everywhere if not allowed[value]),
    )
    findings = []
    for sample, scan in scans:
        findings += check_image(split, sample, scan)
        if sample.label is not None:
            findings += _check_label_file(info, split, sample, scan)
            findings += _check_values(values, split, str(sample.label), scan.label_counts)
    findings += check_value_ranges(info, split, scans)
    return [*_merge_binary_masks(info, split, scans, findings), *_absent_classes(info, split, scans)]


def count_class_pixels(info: DatasetInfo, scans: ScannedSplit) -> tuple[list[int], int]:
    """Return the pixels of each class and the ignored pixels; invalid label values are not counted."""
    classes_of, _ = label_tables(info)
    pixels = np.zeros(256, np.int64)
    for _, scan in scans:
        for value, count in scan.label_counts.items():
            pixels[classes_of[value]] += count
    return pixels[: info.num_classes].tolist(), int(pixels[IGNORE])


def _check_label_file(info: DatasetInfo, split: str, sample: Sample, scan: PairScan) -> list[Finding]:
    image, label = str(sample.image), str(sample.label)
    if scan.label_kind == LOSSY:
        return [Finding(ERROR, "lossy-label", split, label, scan.label_error, fix_lossy(label, info.label_suffix))]
    if scan.label_kind:
        return [Finding(ERROR, "label-format", split, label, scan.label_error, _fix_format(info, scan))]
    if scan.label_error:
        return [Finding(ERROR, "corrupt-label", split, label, scan.label_error, fix_corrupt(label))]
    if scan.image_size and scan.label_size and scan.image_size != scan.label_size:
        text = f"is {_format_size(scan.label_size)}, its image `{image}` {_format_size(scan.image_size)}"
        fix = _FIX_ROTATION if scan.exif_rotated else _FIX_SIZE
        return [Finding(ERROR, "size-mismatch", split, label, text, fix)]
    return []


def _check_values(values: LabelValues, split: str, label: str, counts: dict[int, int]) -> list[Finding]:
    if not counts:
        return []
    invalid = {value: count for value, count in counts.items() if value not in values.allowed}
    if invalid:
        shown = ", ".join(f"{value} ({count} pixels)" for value, count in list(invalid.items())[:_SHOWN])
        more = f" and {len(invalid) - _SHOWN} further values" if len(invalid) > _SHOWN else ""
        text = f"contains {shown}{more}; {values.describe()}"
        return [Finding(ERROR, "label-value", split, label, text, _fix_values(values, counts, set(invalid)))]
    share = counts.get(255, 0) / sum(counts.values())
    if counts.keys() == {0, 255} and share >= _BORDER_SHARE and values.info.num_classes > 1:
        text = f"contains only 0 and 255, with 255 on {100 * share:.0f} % of the pixels"
        return [Finding(NOTE, "binary-mask", split, label, text, _FIX_BINARY)]
    if counts.keys() <= values.ignored:
        text = f"contains only the ignored value{'s' * (len(counts) > 1)} {_join(counts)}"
        return [Finding(NOTE, "all-ignored", split, label, text, "remove the pair if you like: it teaches nothing")]
    return []


def _fix_format(info: DatasetInfo, scan: PairScan) -> str:
    if scan.label_kind != COLOURS:
        return "save it as an 8-bit PNG with one class index per pixel"
    fix = f"it stores colours: write the class index 0..{info.num_classes - 1} in place of each colour of the palette"
    if info.name == "voc12aug":
        fix += ", or use the original PNGs of VOCdevkit: they are palette images, which store the index"
    return fix


def _fix_values(values: LabelValues, counts: dict[int, int], invalid: set[int]) -> str:
    info = values.info
    if info.name == "cityscapes" and invalid <= set(_CITYSCAPES_IDS):
        return (
            "the values are labelIds, not trainIds: move the file away, then run "
            f"`rmrkd data prepare cityscapes --data-root {info.root}`"
        )
    if counts.keys() <= {0, 255}:
        return "this is a mask of 0 and 255: replace 255 by the class index 1"
    past_last = info.num_classes + (1 if info.reduce_zero_label else 0)
    if invalid == {past_last} and 0 not in values.present:
        return "no label map of this split contains 0, so the labels seem to start at 1: subtract 1"
    if info.name == "custom":
        return fix_unknown_labels(info, sorted(values.unknown | invalid)) or (
            f"store the number of the class in each pixel, from 0 to {info.num_classes - 1}, or list the values to "
            "ignore in `data.ignore_labels` of the preset"
        )
    return f"use the label maps of {info.name} as published; for your own data write a preset with `dataset: custom`"


def _merge_binary_masks(info: DatasetInfo, split: str, scans: ScannedSplit, findings: list[Finding]) -> list[Finding]:
    """Replace the notes on binary masks by one error if half of the label maps are such masks."""
    masks = sum(finding.kind == "binary-mask" for finding in findings)
    if not masks or masks * 2 < len(scans):
        return findings
    others = [finding for finding in findings if finding.kind != "binary-mask"]
    text = f"contains {masks} label maps (of {len(scans)}) with only 0 and 255"
    return [*others, Finding(ERROR, "binary-mask", split, _label_folder(info, split), text, _FIX_BINARY)]


def describe_ignored_classes(info: DatasetInfo) -> str:
    """Return in a sentence which classes have an ignored label value, or an empty text."""
    classes_of, _ = label_tables(info)
    ignored = [index for index in range(info.num_classes) if index not in classes_of]
    if not ignored:
        return ""
    shown = ", ".join(f"{index} (`{info.classes[index]}`)" for index in ignored[:_SHOWN])
    more = f" and {len(ignored) - _SHOWN} more" if len(ignored) > _SHOWN else ""
    return (
        f"`data.ignore_labels` contains the class ind{'ices' if len(ignored) > 1 else 'ex'} {shown}{more}: never a "
        "target; where a network predicts such a class, its IoU is 0 and counts in the mIoU"
    )


def ignored_classes(info: DatasetInfo) -> list[Finding]:
    """Return a note if a class of the data set has an ignored label value."""
    text = describe_ignored_classes(info)
    fix = "if it is no void class, remove its index from `data.ignore_labels`"
    return [Finding(NOTE, "ignored-class", "", str(info.root), f"is read with a class ignored: {text}", fix)] * bool(
        text
    )


def _absent_classes(info: DatasetInfo, split: str, scans: ScannedSplit) -> list[Finding]:
    pixels, _ = count_class_pixels(info, scans)
    classes_of, _ = label_tables(info)
    if not any(pixels):
        return []  # reported as "nothing-counted"
    folder = _label_folder(info, split)
    return [
        Finding(NOTE, "absent-class", split, folder, f"has no pixel of class {index} `{name}` in `{split}`")
        for index, (name, count) in enumerate(zip(info.classes, pixels, strict=True))
        if not count and index in classes_of  # `ignored_classes` reports the others
    ]


def all_ignored(info: DatasetInfo, scans: ScannedSplit) -> bool:
    """Return whether the label maps that can be read have pixels, and none of them has a class."""
    _, allowed = label_tables(info)
    readable = [(sample, scan) for sample, scan in scans if scan.label_counts]
    values_are_valid = all(allowed[value] for _, scan in readable for value in scan.label_counts)
    return bool(readable) and values_are_valid and not any(count_class_pixels(info, readable)[0])


def nothing_counted(info: DatasetInfo, split: str) -> Finding:
    """Return the finding for a split without a pixel of any class."""
    text = f"has no pixel of any class in `{split}`: all are ignored, so nothing can be measured or learned"
    fix = "check the label maps, and `data.ignore_labels`" if info.name == "custom" else "check the label maps"
    return Finding(ERROR, "nothing-counted", split, _label_folder(info, split), text, fix)


def _label_folder(info: DatasetInfo, split: str) -> str:
    return str(info.root / str(info.splits[split].parts[0][1]))


def _format_size(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def _join(values: Sequence[int] | dict[int, int] | frozenset[int]) -> str:
    return ", ".join(map(str, sorted(values)))
