"""What the label values of a split mean: those that are no class, and of what mistake they are the mark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmrkd_cli.data.check.findings import ERROR, NOTE, Finding
from rmrkd_cli.data.check.pair_scan import Facts
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.sample_reader import IGNORE, label_tables
from rmrkd_cli.data.samples import Sample

_LABEL_IDS = range(34)  # of Cityscapes, before they become the 19 classes
_FOREGROUND = 0.1  # share of 255 above which it is no border
_SHOWN = 5
_COLOURS = re.compile(r"shape \(\d+, \d+, \d+\)")

ScannedSplit = Sequence[tuple[Sample, Facts]]


@dataclass(frozen=True)
class Values:
    """The label values that a data set allows, and those met in a split."""

    info: DatasetInfo
    allowed: frozenset[int]
    ignored: frozenset[int]
    met: frozenset[int]

    def bad(self, facts: Facts) -> dict[int, int]:
        return {value: count for value, count in facts.counts.items() if value not in self.allowed}


def check_labels(info: DatasetInfo, split: str, looked: ScannedSplit) -> list[Finding]:
    """All findings about the contents of a split's files."""
    classes_of, allowed = label_tables(info)
    values = Values(
        info,
        frozenset(np.flatnonzero(allowed).tolist()),
        frozenset(np.flatnonzero(classes_of == IGNORE).tolist()),
        frozenset(value for _, facts in looked for value in facts.counts),
    )
    findings = [found for sample, facts in looked for found in _of_pair(values, split, sample, facts)]
    return [*_fewer_masks(info, split, looked, findings), *_absent(info, split, looked)]


def class_pixels(info: DatasetInfo, looked: ScannedSplit) -> tuple[list[int], int]:
    """Pixels of each class, and ignored ones; values that are no class count as neither."""
    classes_of, _ = label_tables(info)
    pixels = np.zeros(256, np.int64)
    for _, facts in looked:
        for value, count in facts.counts.items():
            pixels[classes_of[value]] += count
    return pixels[: info.num_classes].tolist(), int(pixels[IGNORE])


def _of_pair(values: Values, split: str, sample: Sample, facts: Facts) -> list[Finding]:
    image, label = str(sample.image), str(sample.label)
    found = []
    if facts.bad_image:
        found.append(Finding(ERROR, "corrupt-image", split, image, facts.bad_image, _replace(image)))
    elif facts.complaint:
        text = f"is decoded with the complaint: {facts.complaint}"
        found.append(Finding(NOTE, "damaged-image", split, image, text, "look at it, and replace it if it is damaged"))
    if facts.bad_label:
        found.append(_bad_label(values.info, split, label, facts.bad_label))
    elif facts.image and facts.image != facts.label:
        text = f"is {_size(facts.label)}, its image `{image}` {_size(facts.image)}"
        found.append(Finding(ERROR, "size-mismatch", split, label, text, _TURNED if facts.turned else _OTHER_SIZE))
    if bad := values.bad(facts):
        found.append(_bad_values(values, split, label, facts, bad))
    elif facts.counts and facts.counts.keys() == {0, 255} and _much_255(facts) and values.info.num_classes > 1:
        text = f"holds 0 and 255 alone, 255 on {_share(facts, 255):.0f} % of it"
        found.append(Finding(NOTE, "binary-mask", split, label, text, _BINARY))
    elif facts.counts and not facts.counts.keys() - values.ignored:
        text = f"holds only {_listed(sorted(facts.counts))}, which is ignored"
        found.append(
            Finding(NOTE, "all-ignored", split, label, text, "nothing is learnt from it; leave it out if you like")
        )
    return found


_OTHER_SIZE = "resize neither by hand: find the label map made for this image"
_TURNED = (
    "the image is turned when it is read (EXIF orientation), its label map was made for it as it lies in the file: "
    "take the orientation out of the image (`exiftool -Orientation= FILE`), or turn the label map"
)
_BINARY = "255 is ignored, so nothing but class 0 is learnt: write the class index (1) for 255"


def _bad_label(info: DatasetInfo, split: str, label: str, why: str) -> Finding:
    if not why.startswith("must hold"):
        return Finding(ERROR, "corrupt-label", split, label, why, _replace(label))
    mend = "save it as an 8-bit PNG of one class index a pixel"
    if _COLOURS.search(why):
        mend = f"it holds colours: write the class index 0..{info.num_classes - 1} for each colour of the palette"
        if info.name == "voc12aug":
            mend += " (the PNGs of VOCdevkit are palette images that hold the index already: take those)"
    return Finding(ERROR, "label-format", split, label, why, mend)


def _bad_values(values: Values, split: str, label: str, facts: Facts, bad: dict[int, int]) -> Finding:
    info = values.info
    shown = ", ".join(f"{value} ({count} pixels)" for value, count in list(bad.items())[:_SHOWN])
    more = f" and {len(bad) - _SHOWN} further values" if len(bad) > _SHOWN else ""
    text = f"holds {shown}{more}; classes are {_class_range(info)}, ignored {_listed(sorted(values.ignored))}"
    return Finding(ERROR, "label-value", split, label, text, _mend_of_values(values, facts, set(bad)))


def _mend_of_values(values: Values, facts: Facts, bad: set[int]) -> str:
    info = values.info
    if info.name == "cityscapes" and bad <= set(_LABEL_IDS):
        return (
            "these are labelIds, not trainIds: move the file away, then "
            f"`rmrkd data prepare cityscapes --data-root {info.root}`"
        )
    if facts.counts.keys() <= {0, 255}:
        return "a mask of 0 and 255: write the class index (1) for 255"
    past = info.num_classes + (1 if info.reduce_zero_label else 0)
    if bad == {past} and 0 not in values.met:
        return "0 occurs in no label map of the split: they seem to count from 1, so subtract 1"
    if info.name == "custom" and min(bad) == past:
        return f"{past} is one more than the last class: does `data.classes` lack a name? If not, write class indices"
    if info.name == "custom":
        return "write class indices, or name values to be ignored under `data.ignore_labels` of the preset"
    return f"take the label maps of {info.name} as published; a data set of your own needs a preset (`dataset: custom`)"


def _fewer_masks(info: DatasetInfo, split: str, looked: ScannedSplit, findings: list[Finding]) -> list[Finding]:
    """Where half of the maps are 0/255 masks it is no border any more, and an error."""
    masks = sum(finding.kind == "binary-mask" for finding in findings)
    if not masks or masks * 2 < len(looked):
        return findings
    folder = str(info.root / info.splits[split].parts[0][1])
    others = [finding for finding in findings if finding.kind != "binary-mask"]
    text = f"{masks} of {len(looked)} label maps hold 0 and 255 alone"
    return [*others, Finding(ERROR, "binary-mask", split, folder, text, _BINARY)]


def _absent(info: DatasetInfo, split: str, looked: ScannedSplit) -> list[Finding]:
    pixels, _ = class_pixels(info, looked)
    if not any(pixels):
        return []
    folder = str(info.root / info.splits[split].parts[0][1])
    return [
        Finding(NOTE, "absent-class", split, folder, f"class {index} `{name}` never occurs in `{split}`")
        for index, (name, count) in enumerate(zip(info.classes, pixels, strict=True))
        if not count
    ]


def _class_range(info: DatasetInfo) -> str:
    first = 1 if info.reduce_zero_label else 0
    return f"{first}..{first + info.num_classes - 1}"


def _much_255(facts: Facts) -> bool:
    return _share(facts, 255) >= 100 * _FOREGROUND


def _share(facts: Facts, value: int) -> float:
    return 100 * facts.counts[value] / sum(facts.counts.values())


def _size(shape: tuple[int, int] | None) -> str:
    return f"{shape[1]}x{shape[0]}" if shape else "unreadable"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "none"


def _replace(path: str) -> str:
    return "replace it by a fresh copy" if "._" not in path else "delete it: macOS leaves such files when it copies"
