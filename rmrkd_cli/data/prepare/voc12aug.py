"""Make `SegmentationClassAug`, `aug.txt` and `trainaug.txt` of VOC 2012 from the annotations of SBD."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.prepare.new_files import describe_links, remove_partial_files, write_name_list
from rmrkd_cli.data.prepare.pipeline import Conversion, PrepareResult, Progress, convert_label_maps
from rmrkd_cli.data.samples import read_name_list, read_valid_names
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.installation.requirements import install_extra_command
from rmrkd_cli.storage.memory_limit import limit_memory
from rmrkd_cli.storage.regular_file import error_reason, read_regular

FULL = 10_582  # training images of the published set
_LISTS = Path("ImageSets/Segmentation")
_LABELS = "SegmentationClassAug"
_VALUES = (*range(21), 255)
MAX_UNPACKED = 1 << 29  # bytes in memory; a published file takes less than 10 MB
_MAX_MAT_BYTES = 1 << 25  # a published file has less than 1 MB


def prepare_voc12aug(root: Path, sbd: Path, workers: int, on_progress: Progress) -> PrepareResult:
    """Write the label maps of SBD as PNG, and the lists of the merged training set.

    Args:
        root: VOC2012, VOCdevkit, or the folder above.
        sbd: benchmark_RELEASE, its folder `dataset`, or the folder above.

    Raises:
        RmrkdError: When one of the folders or scipy is missing.
        OSError: When a file cannot be written.
    """
    root, source = _find_voc(root), _find_sbd(sbd)
    _require_scipy()
    train, val = (set(read_valid_names(root / _LISTS / f"{split}.txt")) for split in ("train", "val"))
    sbd_names = {name for split in ("train", "val") for name in read_valid_names(source / f"{split}.txt")}
    remove_partial_files(root / _LABELS)
    remove_partial_files(root / _LISTS)
    conversions = [
        Conversion(from_mat, mat, root / _LABELS / f"{mat.stem}.png", root / "JPEGImages" / f"{mat.stem}.jpg", _VALUES)
        for mat in sorted((source / "cls").glob("*.mat"))
    ]
    result = convert_label_maps(conversions, workers, on_progress)
    result.root = root
    lists = {"aug": sbd_names - train - val, "trainaug": (train | sbd_names) - val}
    for name, members in lists.items():  # written last, so that the label maps of a list always exist
        target = root / _LISTS / f"{name}.txt"
        status, problem = write_name_list(members, target)
        result.add(target, status, f"{problem}; it was not changed" if problem else "")
    targets = [*(conversion.target for conversion in conversions), *(root / _LISTS / name for name in lists)]
    result.notices += describe_links(root, targets)
    _verify_lists(root, source, lists, result)
    result.images = {"train": len(lists["trainaug"]), "val": len(val)}
    if len(lists["trainaug"]) != FULL:
        result.notices.append(
            f"this is not the full data set: it has {len(lists['trainaug'])} training images instead of {FULL}, from "
            f"{len(train)} names in train.txt of VOC (published: 1464) and {len(sbd_names)} in the lists of SBD "
            "(published: 11355)"
        )
    return result


def from_mat(path: Path) -> Picture:
    """Return the labels (H, W) in a .mat file of SBD.

    Raises:
        RunError: When the file cannot be read, or does not contain a label map.
    """
    from scipy.io import loadmat

    try:
        data = read_regular(path, _MAX_MAT_BYTES)
    except OSError as error:
        raise RunError(f"`{path}` cannot be read: {error_reason(error)}") from error
    try:
        with limit_memory(MAX_UNPACKED):
            contents = loadmat(io.BytesIO(data), variable_names=["GTcls"])
    except MemoryError as error:
        raise RunError(f"`{path}` takes more than {MAX_UNPACKED >> 20} MiB to unpack") from error
    except Exception as error:  # scipy raises any kind of exception for a damaged file
        raise RunError(f"`{path}` is not a valid .mat file: {type(error).__name__}: {error}") from error
    truth: Any = contents.get("GTcls")
    if truth is None or truth.dtype.names is None or "Segmentation" not in truth.dtype.names or not truth.size:
        raise RunError(f"`{path}` does not contain `GTcls.Segmentation`; the files in `dataset/cls` of SBD do")
    labels = truth.reshape(-1)[0]["Segmentation"]
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "uif" or not labels.size:
        raise RunError(f"`{path}`: `GTcls.Segmentation` is not a matrix of numbers")
    if not ((labels >= 0) & (labels <= 255) & (labels == np.floor(labels))).all():
        raise RunError(
            f"`{path}`: `GTcls.Segmentation` contains {labels.min()}..{labels.max()}, expected integers 0..255"
        )
    class_indices: Picture = labels.astype(np.uint8)
    return class_indices


def _find_voc(root: Path) -> Path:
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if all((folder / _LISTS / f"{split}.txt").is_file() for split in ("train", "val")):
            return folder
    raise RmrkdError(
        f"`{root}` does not contain VOC 2012; its layout is\n  {root}/\n    JPEGImages/NAME.jpg\n"
        f"    SegmentationClass/NAME.png\n    {_LISTS}/{{train,val}}.txt",
        "download VOCtrainval_11-May-2012.tar from host.robots.ox.ac.uk/pascal/VOC, unpack it, and give its folder "
        "with --data-root DIR",
    )


def _find_sbd(root: Path) -> Path:
    for folder in (root, root / "dataset", root / "benchmark_RELEASE" / "dataset"):
        if (folder / "cls").is_dir() and all((folder / f"{split}.txt").is_file() for split in ("train", "val")):
            return folder
    raise RmrkdError(
        f"`{root}` does not contain SBD; its layout is\n  {root}/dataset/\n    cls/NAME.mat\n    train.txt\n"
        "    val.txt",
        "download benchmark.tgz of the Semantic Boundaries Dataset (Hariharan et al., 2011), unpack it, and give its "
        "folder benchmark_RELEASE with --sbd DIR",
    )


def _require_scipy() -> None:
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        raise RmrkdError(f"scipy is not installed: {error}", install_extra_command("data")) from error


def _verify_lists(root: Path, source: Path, lists: dict[str, set[str]], result: PrepareResult) -> None:
    """Read the lists again, and check that each name has its files."""
    failed = {path for path, _ in result.problems}
    for name, members in lists.items():
        target = root / _LISTS / f"{name}.txt"
        if target not in failed and {line.name for line in read_name_list(target)} != members:
            result.problems.append((target, "differs from what was written"))
    labels = {path.stem for path in (root / _LABELS).glob("*.png")}
    images = {path.stem for path in (root / "JPEGImages").glob("*.jpg")}
    for name in sorted(lists["aug"] - labels):
        mat = source / "cls" / f"{name}.mat"
        if mat not in failed:
            result.problems.append((mat, "does not exist, but a list of SBD names it"))
    result.problems += [
        (root / "JPEGImages" / f"{name}.jpg", "does not exist, but its label map does")
        for name in sorted(lists["aug"] & labels - images)
    ]
