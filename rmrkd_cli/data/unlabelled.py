"""The images that a role trains on: those of the training split, and unlabelled ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rmrkd_cli.data.datasets import DatasetInfo, UnlabelledImages
from rmrkd_cli.data.file_types import IMAGE_SUFFIXES
from rmrkd_cli.data.samples import Sample, find_samples, read_valid_names
from rmrkd_cli.errors import RmrkdError, did_you_mean

UNLABELLED = "unlabelled"  # what they are called where splits are listed
_FIX_FOLDER = "correct `data.unlabelled.images` in the preset, or --set data.unlabelled.images=DIR"


def find_training_samples(info: DatasetInfo, role: str) -> list[Sample]:
    """Return the samples of the training split, and after them, for the role `distill`, the unlabelled images.

    Raises:
        RmrkdError: When a folder, list or file is missing.
    """
    samples = find_samples(info, "train")
    return samples + find_unlabelled(info.unlabelled) if role == "distill" and info.unlabelled is not None else samples


def find_unlabelled(images: UnlabelledImages) -> list[Sample]:
    """Return the unlabelled images, ordered by name. A name is the path below the folder, with the suffix.

    Hidden files and symlinked folders are skipped.

    Raises:
        RmrkdError: When the folder or a listed file is missing, or there is no image.
    """
    if not images.folder.is_dir():
        raise RmrkdError(f"the folder of unlabelled images `{images.folder}` does not exist", _FIX_FOLDER)
    if images.names is not None:
        return _listed(images, images.names)
    names = sorted(_walk(images.folder, (images.suffix,) if images.suffix is not None else IMAGE_SUFFIXES))
    if not names:
        kind = f"image that ends in `{images.suffix}`" if images.suffix is not None else "image"
        raise RmrkdError(f"`{images.folder}` contains no {kind}", f"{_FIX_FOLDER}; {_suffix_hint(images)}")
    return [Sample(name, images.folder / name, None) for name in names]


def count_labelled(samples: list[Sample]) -> tuple[int, int]:
    """Return how many samples have label maps, and how many have none."""
    labelled = sum(sample.label is not None for sample in samples)
    return labelled, len(samples) - labelled


def _listed(images: UnlabelledImages, path: Path) -> list[Sample]:
    suffix = images.suffix or ""
    names = sorted({name if name.endswith(suffix) else name + suffix for name in read_valid_names(path)})
    missing = [name for name in names if not (images.folder / name).is_file()]
    if missing:
        add_suffix = (
            "" if Path(missing[0]).suffix else "write names with their suffix, or set `data.unlabelled.suffix`; "
        )
        raise RmrkdError(
            f"{len(missing)} of {len(names)} unlabelled images in `{path}` are missing, the first is "
            f"`{images.folder / missing[0]}`",
            f"{add_suffix}names are relative to `{images.folder}`",
        )
    if not names:
        raise RmrkdError(f"the list `{path}` is empty", "write one file a line, relative to `data.unlabelled.images`")
    return [Sample(name, images.folder / name, None) for name in names]


def _walk(root: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the names of files with one of the suffixes, relative to the root; any suffix is matched in any case."""
    lower = tuple(suffix.lower() for suffix in suffixes)
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = "" if folder == str(root) else f"{os.path.relpath(folder, root)}/".replace(os.sep, "/")
        yield from (prefix + name for name in files if name.lower().endswith(lower) and not name.startswith("."))


def _suffix_hint(images: UnlabelledImages) -> str:
    """Return which suffixes are read."""
    if images.suffix is None:
        return f"supported suffixes: {' '.join(IMAGE_SUFFIXES)}"
    return f"set `data.unlabelled.suffix`, {did_you_mean(images.suffix, IMAGE_SUFFIXES)}, or leave it out"
