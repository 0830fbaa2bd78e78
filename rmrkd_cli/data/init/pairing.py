"""Pair the images of a folder with their masks, and find the suffixes of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from rmrkd_cli.data.init.folders import IMAGES, MASKS, Files, Place
from rmrkd_cli.data.renames import splits_number
from rmrkd_cli.data.suffixes import best_suffix, common_endings, common_suffixes
from rmrkd_cli.errors import RmrkdError

SPLITS = ("train", "val", "test")
_MIN_SHARE = 0.5  # of the images that must have a mask beside them
_SHOWN = 4  # folders and suffixes in a message


@dataclass
class Part:
    """The images of one split, or of all if the folder has no splits.

    Attributes:
        images, labels: Folders, relative to the root.
        names: Of the pairs, without suffix.
        alone: Images without a mask.
        list: Text file with the names that are used, relative to the root; empty: all files of the folders.
    """

    images: str
    labels: str
    names: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    list: str = ""


@dataclass
class Pairs:
    """The pairs of a folder.

    Attributes:
        parts: Split -> its part; the split is empty if no folder names one.
    """

    parts: dict[str, Part]
    image_suffix: str
    label_suffix: str


def find_pairs(files: Files) -> Pairs | None:
    """Return the pairs of images and masks, or None if there are none.

    Raises:
        RmrkdError: Images have different suffixes, or two folders claim the same split.
    """
    masks = files.of_kind(MASKS)
    candidates: dict[Place, tuple[Place, set[str]]] = {}
    for place in files.of_kind(IMAGES):
        if found := _mask_place(place, masks):
            candidates[place] = (found, masks[found])
    pairs = _pair(files, candidates) if candidates else None
    return pairs or _pair_in_one_folder(files)


def _mask_place(place: Place, masks: Iterable[Place]) -> Place | None:
    """Return the folder of the masks of an image folder: that of the same words, or the only one that can be meant."""
    same = [mask for mask in masks if (mask.split, mask.key) == (place.split, place.key)]
    near = [mask for mask in masks if mask.split in (place.split, "")]
    return same[0] if len(same) == 1 else near[0] if len(near) == 1 else None


def _pair(files: Files, candidates: Mapping[Place, tuple[Place, set[str]]]) -> Pairs | None:
    """Return the pairs of image folders with mask folders; all have the same suffixes."""
    images = {f"{number}/{name}" for number, place in enumerate(candidates) for name in files.images[place]}
    labels = {f"{number}/{name}" for number, (_, masks) in enumerate(candidates.values()) for name in masks}
    found = []
    for suffix in common_endings(images):
        names = _stems(images, suffix)
        label_suffix, count = best_suffix(labels, names, "/")
        found.append((count, suffix, label_suffix))
    found.append(common_suffixes(images, labels))
    count, image_suffix, label_suffix = max(found, key=lambda one: one[0])
    if not count:
        return None
    parts: dict[str, Part] = {}
    for place, (mask_place, masks) in candidates.items():
        part = _part(place.folder, mask_place.folder, files.images[place], masks, image_suffix, label_suffix)
        _add(parts, place, part)
    return Pairs(parts, image_suffix, label_suffix) if parts else None


def _pair_in_one_folder(files: Files) -> Pairs | None:
    """Return the pairs of files beside each other, such as `a.jpg` and `a_mask.png`."""
    places = files.of_kind(IMAGES)
    every = {f"{number}/{name}" for number, names in enumerate(places.values()) for name in names}
    found: list[tuple[int, str, str]] = []
    for suffix in common_endings(every):
        names, counts = _stems(every, suffix), Counter[str]()
        for file in every:
            counts.update(
                file[end:]
                for end in range(file.rfind("/") + 2, len(file))
                if file[:end] in names and file[end:] != suffix and not splits_number(file, end)
            )
        if counts:
            label_suffix, count = max(counts.items(), key=lambda one: (one[1], len(one[0])))
            if count >= _MIN_SHARE * (len(names) - (count if label_suffix.endswith(suffix) else 0)):
                found.append((count, suffix, label_suffix))
    if not found:
        return None
    count, image_suffix, label_suffix = max(found, key=lambda one: (one[0], -_rank(one[1]), _rank(one[2])))
    parts: dict[str, Part] = {}
    for place, names in places.items():
        images = {name for name in names if not name.endswith(label_suffix)}
        _add(parts, place, _part(place.folder, place.folder, images, names, image_suffix, label_suffix))
    return Pairs(parts, image_suffix, label_suffix)


def _rank(suffix: str) -> bool:
    """Return whether a suffix is that of a mask, where images and masks differ only by it: `a.jpg` and `a.png`."""
    return not suffix.lower().endswith((".jpg", ".jpeg", ".webp"))


def _part(folder: str, masks: str, images: set[str], labels: set[str], image_suffix: str, label_suffix: str) -> Part:
    names = _stems(images, image_suffix)
    paired = {name for name in names if name + label_suffix in labels}
    _check_one_suffix(folder, images, labels, image_suffix, label_suffix)
    return Part(folder, masks, sorted(paired), sorted(names - paired))


def _check_one_suffix(folder: str, images: set[str], labels: set[str], suffix: str, label_suffix: str) -> None:
    """Raise RmrkdError if images with another suffix have masks too: a preset reads one suffix."""
    others = [
        name for name in images - labels
        if not name.endswith(suffix) and str(PurePosixPath(name).with_suffix("")) + label_suffix in labels
    ]  # fmt: skip
    if others:
        raise RmrkdError(
            f"the images in `{folder}` have different suffixes: `{suffix}`, and `{PurePosixPath(min(others)).suffix}` "
            f"of {len(others)} images that have a mask, such as `{min(others)}`",
            f"a preset reads one suffix: rename these images to end in `{suffix}`, their contents may stay as they are",
        )


def _add(parts: dict[str, Part], place: Place, part: Part) -> None:
    """Add a part that has pairs."""
    if not part.names:
        return
    if place.split in parts:
        split = f"the split {place.split}" if place.split else "one split"
        raise RmrkdError(
            f"two folders of images are for {split}: `{parts[place.split].images}` and `{part.images}`",
            "give rmrkd init one of the folders, or arrange the files as images/train, images/val, masks/train and "
            "masks/val",
        )
    parts[place.split] = part


def describe_files(files: Files) -> str:
    """Return in words which files were found, for messages."""
    rows = sorted(files.images.items(), key=lambda item: -len(item[1]))
    shown = [
        f"{len(names)} files in `{place.folder}` that end in {', '.join(common_endings(names)[:_SHOWN])}"
        for place, names in rows[:_SHOWN]
    ]
    shown += [f"{len(rows) - _SHOWN} more folders"] if rows[_SHOWN:] else []
    shown += [f"{len(files.json)} JSON files"] if files.json else []
    return "; ".join(shown) or "no image"


def _stems(files: Iterable[str], suffix: str) -> set[str]:
    return {file[: -len(suffix)] for file in files if file.endswith(suffix)}
