"""Find the names of the samples in a folder or in tar archives, and where their files are."""

from __future__ import annotations

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.folder_listing import list_names
from rmrkd_cli.data.sample_table import Part, PartNames
from rmrkd_cli.data.shards import Members, endings, find_members, is_shards
from rmrkd_cli.errors import RmrkdError


def list_part(info: DatasetInfo, images: str, labels: str | None, listed: list[str] | None) -> PartNames:
    """Return the names of a part of a split, and where they are in archives.

    Args:
        images, labels: Folders, or patterns of tar archives, relative to the root.
        listed: The names in the part's list; None: every image.

    Raises:
        RmrkdError: When an archive is missing or cannot be used, or archives hold no image.
    """
    label_folder = None if labels is None else info.root / labels
    part = Part(info.root / images, label_folder, info.image_suffix, info.label_suffix)
    names, others, in_archives = listed, None, None
    if is_shards(images):
        in_archives = _find_images(info, images, labels)
        names = in_archives.names if listed is None else listed
    elif listed is None:
        names, others = list_names(part.images, part.image_suffix)
        names = sorted(names + others) if others else names
    assert names is not None
    label_members = None
    if labels is not None and is_shards(labels):
        label_members = _placed(find_members(info.root, labels, info.label_suffix), names)
    return PartNames(part, names, in_archives and _placed(in_archives, names), label_members, others)


def _find_images(info: DatasetInfo, images: str, labels: str | None) -> Members:
    if labels == images and info.label_suffix == info.image_suffix:
        raise RmrkdError(
            f"images and label maps are in the same archives `{images}`, and both end in `{info.image_suffix}`",
            "end the label maps differently, such as `NAME.mask.png`, and set `data.label_suffix: .mask.png`",
        )
    is_longer = labels == images and info.label_suffix.endswith(info.image_suffix)
    members = find_members(info.root, images, info.image_suffix, without=info.label_suffix if is_longer else None)
    if not members.names:
        found = endings(info.root, images)[:3]
        there = f"the files there end in {', '.join(f'`{ending}`' for ending in found)}" if found else "they are empty"
        raise RmrkdError(
            f"the archives `{info.root / images}` contain no image that ends in `{info.image_suffix}`",
            f"{there}; set `data.image_suffix` in the preset",
        )
    return members


def _placed(members: Members, names: list[str]) -> Members:
    return Members(members.archives, names, members.look_up(names))
