"""The images that a role trains on: those of the training split, and unlabelled ones."""

from __future__ import annotations

from pathlib import Path

from rmrkd_cli.data.datasets import DatasetInfo, UnlabelledImages
from rmrkd_cli.data.file_types import IMAGE_SUFFIXES
from rmrkd_cli.data.folder_listing import missing_names, scan_folder
from rmrkd_cli.data.sample_table import Part, PartNames, SampleTable
from rmrkd_cli.data.samples import find_samples, read_valid_names
from rmrkd_cli.data.shards import Members, find_images, is_shards
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.storage.regular_file import error_reason

UNLABELLED = "unlabelled"  # what they are called where splits are listed
_FIX_FOLDER = "correct `data.unlabelled.images` in the preset, or --set data.unlabelled.images=DIR"


def find_training_samples(info: DatasetInfo, role: str) -> SampleTable:
    """Return the samples of the training split, and after them, for the role `distill`, the unlabelled images.

    Raises:
        RmrkdError: When a folder, list or file is missing.
    """
    samples = find_samples(info, "train")
    return samples + find_unlabelled(info.unlabelled) if role == "distill" and info.unlabelled is not None else samples


def find_unlabelled(images: UnlabelledImages) -> SampleTable:
    """Return the unlabelled images, ordered by name. A name is the path below the folder, with the suffix.

    Hidden files and symlinked folders are skipped.

    Raises:
        RmrkdError: When the folder or a listed file is missing, or there is no image.
    """
    if is_shards(images.folder):
        return _in_archives(images)
    if not images.folder.is_dir():
        raise RmrkdError(f"the folder of unlabelled images `{images.folder}` does not exist", _FIX_FOLDER)
    if images.names is not None:
        return _listed(images, images.names)
    try:
        names = _find_names(images.folder, (images.suffix,) if images.suffix is not None else IMAGE_SUFFIXES)
    except OSError as error:
        raise RmrkdError(
            f"`{error.filename}` cannot be searched for images: {error_reason(error)}", _FIX_FOLDER
        ) from error
    if not names:
        kind = f"image that ends in `{images.suffix}`" if images.suffix is not None else "image"
        raise RmrkdError(f"`{images.folder}` contains no {kind}", f"{_FIX_FOLDER}; {_suffix_hint(images)}")
    return SampleTable([PartNames(Part(images.folder, None), names)])


def _in_archives(images: UnlabelledImages) -> SampleTable:
    """Return the images in tar archives; with a list, those that it names."""
    suffixes = (images.suffix,) if images.suffix is not None else IMAGE_SUFFIXES
    members = find_images(images.folder.parent, images.folder.name, suffixes)
    if images.names is not None:
        names = _listed_names(images, images.names)
        members = Members(members.archives, names, members.look_up(names))
    table = PartNames(Part(images.folder, None), members.names, images=members)
    if missing := table.missing("image"):
        raise _missing_listed(images, missing, len(members.names))
    if not members.names:
        raise RmrkdError(f"the archives `{images.folder}` contain no image", f"{_FIX_FOLDER}; {_suffix_hint(images)}")
    return SampleTable([table])


def count_labelled(samples: SampleTable) -> tuple[int, int]:
    """Return how many samples have label maps, and how many have none."""
    labelled = samples.count_labelled()
    return labelled, len(samples) - labelled


def _listed(images: UnlabelledImages, path: Path) -> SampleTable:
    names = _listed_names(images, path)
    if missing := missing_names(images.folder, "", names):
        raise _missing_listed(images, missing, len(names))
    return SampleTable([PartNames(Part(images.folder, None), names)])


def _listed_names(images: UnlabelledImages, path: Path) -> list[str]:
    suffix = images.suffix or ""
    names = sorted({name if name.endswith(suffix) else name + suffix for name in read_valid_names(path)})
    if not names:
        raise RmrkdError(f"the list `{path}` is empty", "write one file a line, relative to `data.unlabelled.images`")
    return names


def _missing_listed(images: UnlabelledImages, missing: list[str], count: int) -> RmrkdError:
    add_suffix = "" if Path(missing[0]).suffix else "write names with their suffix, or set `data.unlabelled.suffix`; "
    return RmrkdError(
        f"{len(missing)} of {count} unlabelled images in `{images.names}` are missing, the first is "
        f"`{images.folder / missing[0]}`",
        f"{add_suffix}names are relative to `{images.folder}`",
    )


def _find_names(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Return the names of files with one of the suffixes, relative to the root; any suffix is matched in any case."""
    lower = tuple(suffix.lower() for suffix in suffixes)
    return [
        prefix + entry.name
        for prefix, entries in scan_folder(root, hidden=False)
        for entry in entries
        if entry.name.lower().endswith(lower) and not entry.name.startswith(".") and not entry.is_dir()
    ]


def _suffix_hint(images: UnlabelledImages) -> str:
    """Return which suffixes are read."""
    if images.suffix is None:
        return f"supported suffixes: {' '.join(IMAGE_SUFFIXES)}"
    return f"set `data.unlabelled.suffix`, {did_you_mean(images.suffix, IMAGE_SUFFIXES)}, or leave it out"
