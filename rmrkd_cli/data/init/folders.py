"""Sort the files below a folder: which folders hold images, which masks, and of which split."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rmrkd_cli.data.file_types import IMAGE_SUFFIXES
from rmrkd_cli.data.folder_listing import scan_folder
from rmrkd_cli.errors import RmrkdError

IMAGES, MASKS, OTHER = "images", "masks", "other"
CONVERTED = "rmrkd-masks"  # folder of the label maps that `rmrkd init` writes
_MAX_ENTRIES = 2_000_000
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "ts"), "test"),
}
_KINDS = {
    **dict.fromkeys(("image", "images", "img", "imgs", "jpegimages", "leftimg8bit", "photo", "photos", "rgb"), IMAGES),
    **dict.fromkeys(
        ("mask", "masks", "label", "labels", "labelled", "annotation", "annotations", "annot", "annots", "ann", "anns",
         "gt", "groundtruth", "gtfine", "seg", "segmentation", "segmentations", "segmentationclass",
         "segmentationclasspng", "target", "targets"), MASKS,
    ),
    **dict.fromkeys(
        ("visualization", "visualizations", "vis", "viz", "overlay", "overlays", "segmentationobject",
         "segmentationobjectpng", "segmentationclassvisualization", "instance", "instances", "predictions"), OTHER,
    ),
}  # fmt: skip
_FILLERS = {"dir", "folder", "data", "dataset", "set"}
_WORDS = {**_SPLITS, **_KINDS}
_JOINED = re.compile(rf"({'|'.join(sorted(_SPLITS, key=len, reverse=True))})({'|'.join(_KINDS)})")


class Place(NamedTuple):
    """What the names of the folders say about the files in them.

    Attributes:
        folder: The last folder of which the name says something, relative to the root; "." is the root. Folders below
            it belong to the names of the files.
        split: train, val, test, or empty.
        kind: `IMAGES`, `MASKS` or `OTHER`; folders that say nothing hold images.
        key: The other words in the names, which images and masks have in common.
    """

    folder: str
    split: str
    kind: str
    key: tuple[str, ...]


@dataclass
class Files:
    """The files below a folder.

    Attributes:
        images: Place -> image files of any kind, relative to the place's folder.
        json: JSON files, relative to the root.
    """

    root: Path
    images: dict[Place, set[str]] = field(default_factory=lambda: defaultdict(set))
    json: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> dict[Place, set[str]]:
        return {place: names for place, names in self.images.items() if place.kind == kind}


def list_files(root: Path) -> Files:
    """Return the image and JSON files below a folder, without hidden ones and those that `rmrkd init` wrote.

    Raises:
        RmrkdError: There are too many files for one data set, as in the root folder of a machine.
    """
    files, seen = Files(root), 0
    for prefix, entries in scan_folder(root, hidden=False):
        if prefix.startswith(f"{CONVERTED}/"):
            continue
        place = place_of(prefix.rstrip("/"))
        below = prefix[0 if place.folder == "." else len(place.folder) + 1 :]
        seen += len(entries)
        if seen > _MAX_ENTRIES:
            raise RmrkdError(f"`{root}` contains more than {_MAX_ENTRIES:,} files", "name the folder of one data set")
        for entry in entries:
            name = entry.name.lower()
            if name.startswith(".") or not name.endswith((*IMAGE_SUFFIXES, ".json")) or not entry.is_file():
                continue
            if name.endswith(".json"):
                files.json.append(prefix + entry.name)
            else:
                files.images[place].add(below + entry.name)
    return files


def place_of(folder: str) -> Place:
    """Return what the path of a folder says, such as `train/images`, `img_dir/val` or `trainannot`."""
    split, kind, other = "", IMAGES, []
    last, parts = 0, [part for part in folder.split("/") if part]
    words = [list(_words(part)) for part in parts]
    for number, found in enumerate(words, 1):
        if any(word in _WORDS for word in found):
            last = number
    for word in (word for found in words[:last] for word in found):
        if word in _SPLITS:
            split = _SPLITS[word]
        elif word in _KINDS:
            kind = _KINDS[word] if kind != OTHER else kind
        elif word not in _FILLERS:
            other.append(word)
    return Place("/".join(parts[:last]) or ".", split, kind, tuple(other))


def _words(part: str) -> list[str]:
    """Return the words of a folder's name: `trainannot` and `imagesTr` have two."""
    lower = part.lower()
    if lower in _WORDS:
        return [lower]
    found: list[str] = []
    for word in re.findall(r"[A-Z]*[a-z]+|[A-Z]+|\d+", part):
        joined = _JOINED.fullmatch(word.lower())
        found += joined.groups() if joined else [word.lower()]
    return found
