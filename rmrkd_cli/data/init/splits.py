"""Decide which pairs are for training and which for validation, where folders do not say it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rmrkd_cli.data.folder_listing import list_names
from rmrkd_cli.data.init.pairing import SPLITS, Pairs, Part
from rmrkd_cli.data.samples import read_name_list
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.text import join_and, plural

VAL_SHARE = 0.2
_LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets", "splits", "lists", ".")
_LIST_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def complete_splits(root: Path, pairs: Pairs) -> tuple[dict[str, list[str]], list[str]]:
    """Give a data set a training and a validation split; change `pairs`.

    Existing lists of names are used. Otherwise a fifth of the images is for validation, chosen by a hash of the names:
    the same images on every machine, and images that are added later change nothing for the others.

    Returns:
        Lists to write, file -> names, and what was assumed.

    Raises:
        RmrkdError: There are too few images, or none to train on.
    """
    new: dict[str, list[str]] = {}
    assumed = [
        f"{plural(len(part.alone), 'image')} of `{part.images}` without a mask {_be(part.alone)} left out, such as "
        f"`{part.alone[0]}{pairs.image_suffix}`"
        for part in pairs.parts.values()
        if part.alone
    ]
    whole = pairs.parts.pop("", None)
    if whole is not None and not pairs.parts:
        assumed += _split_by_lists(root, pairs, whole) or _split_by_hash(pairs, whole, new)
    elif whole is not None:
        assumed.append(f"`{whole.images}` is not used: the other folders are named after splits")
    if "train" not in pairs.parts:
        raise RmrkdError(
            f"no folder of training images was found, only {join_and([*pairs.parts])}",
            "name the folders train and val, as in images/train and masks/train",
        )
    if "val" not in pairs.parts:
        assumed += _split_by_hash(pairs, pairs.parts.pop("train"), new)
    pairs.parts = {split: pairs.parts[split] for split in SPLITS if split in pairs.parts}
    for split, part in pairs.parts.items():
        if not part.list and not _are_all_files(root, pairs, part):
            part.list = f"rmrkd-{split}.txt"
            new[part.list] = part.names
    return new, assumed


def _are_all_files(root: Path, pairs: Pairs, part: Part) -> bool:
    """Return whether the folders of a part hold its pairs and no other file with the same suffixes."""
    folders = ((part.images, pairs.image_suffix), (part.labels, pairs.label_suffix))
    return all(list_names(root / folder, suffix) == (part.names, []) for folder, suffix in folders)


def _split_by_lists(root: Path, pairs: Pairs, whole: Part) -> list[str]:
    """Split by the lists of names that a data set has; return what was assumed, or nothing if there are none."""
    known = set(whole.names)
    for folder in _LIST_FOLDERS:
        found: dict[str, tuple[str, list[str]]] = {}
        for split, stems in _LIST_NAMES.items():
            for stem in stems:
                path = root / folder / f"{stem}.txt"
                names = [line.name for line in read_name_list(path)] if path.is_file() else []
                if names and set(names) <= known:
                    found.setdefault(split, (path.relative_to(root).as_posix(), names))
        if {"train", "val"} <= set(found):
            for split, (file, names) in found.items():
                pairs.parts[split] = Part(whole.images, whole.labels, sorted(set(names)), list=file)
            return [f"the splits are those of the lists {join_and([file for file, _ in found.values()])}"]
    return []


def _split_by_hash(pairs: Pairs, whole: Part, new: dict[str, list[str]]) -> list[str]:
    count = len(whole.names)
    if count < 2:
        raise RmrkdError(
            f"`{whole.images}` has {count} image with a mask; training and validation need at least one each",
            "add images with masks",
        )
    held_out = choose(whole.names, max(1, round(VAL_SHARE * count)))
    chosen = {"train": sorted(set(whole.names) - held_out), "val": sorted(held_out)}
    for split, names in chosen.items():
        new[f"rmrkd-{split}.txt"] = names
        pairs.parts[split] = Part(whole.images, whole.labels, names, list=f"rmrkd-{split}.txt")
    return [
        f"there is no validation split: {len(held_out)} of {count} images, chosen by a hash of their names, are for "
        "validation; images of one scene or video should be on one side: correct the lists if they are not"
    ]


def choose(names: Sequence[str], count: int) -> set[str]:
    """Return `count` of the names, chosen by the hash of each."""
    return set(sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())[:count])


def _be(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"
