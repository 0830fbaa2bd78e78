"""VOC 2012 with the further annotations of SBD: `SegmentationClassAug`, `aug.txt` and `trainaug.txt`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.prepare.mat5 import BadMat, measured
from rmrkd_cli.data.prepare.pipeline import Outcome, Progress, Task, run
from rmrkd_cli.data.prepare.write_once import clear_partials, linked, place_names
from rmrkd_cli.data.samples import read_name_list, read_valid_names
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.installation.requirements import install_extra_command
from rmrkd_cli.storage.regular_file import error_reason, read_regular

FULL = 10_582  # training images of the merged set
_LISTS = Path("ImageSets/Segmentation")
_LABELS = "SegmentationClassAug"
_VALUES = (*range(21), 255)
_MOST_BYTES = 1 << 25  # of a .mat file; a published one has less than 1 MB
_SHOWN = 3


def prepare_voc12aug(root: Path, sbd: Path, workers: int, on_progress: Progress) -> Outcome:
    """Writes the label maps of SBD and the lists of the merged set.

    Args:
        root: VOC2012, VOCdevkit, or the folder above.
        sbd: benchmark_RELEASE, its folder `dataset`, or the folder above.

    Raises:
        RmrkdError: Without either of them, or without scipy.
    """
    root, source = _voc(root), _sbd(sbd)
    _need_scipy()
    train, val = (_names(root / _LISTS / f"{split}.txt") for split in ("train", "val"))
    sbd_names = _names(source / "train.txt") | _names(source / "val.txt")
    mats = sorted((source / "cls").glob("*.mat"))
    clear_partials(root / _LABELS)
    clear_partials(root / _LISTS)
    tasks = [
        Task(from_mat, mat, root / _LABELS / f"{mat.stem}.png", root / "JPEGImages" / f"{mat.stem}.jpg", _VALUES)
        for mat in mats
    ]
    outcome = run(tasks, workers, on_progress)
    outcome.root = root
    lists = {"aug": sbd_names - train - val, "trainaug": (train | sbd_names) - val}
    for name, members in lists.items():  # last, so that a list never stands where label maps are still to come
        target = root / _LISTS / f"{name}.txt"
        status, text = place_names(members, target)
        outcome.add(target, status, f"{text}; it was left as it is" if text else "")
    outcome.notices += linked(root, [*(task.target for task in tasks), *(root / _LISTS / name for name in lists)])
    _verify_lists(root, source, lists, outcome)
    outcome.images = {"train": len(lists["trainaug"]), "val": len(val)}
    _tell_missing(outcome, train, sbd_names)
    return outcome


def from_mat(path: Path) -> Picture:
    """Labels (H, W) from a .mat file of SBD.

    Raises:
        RunError: Naming what is not as it should be.
    """
    from scipy.io import loadmat

    try:
        data = measured(read_regular(path, _MOST_BYTES))
    except OSError as error:
        raise RunError(f"`{path}` cannot be read: {error_reason(error)}") from error
    except BadMat as error:
        raise RunError(f"`{path}` is no .mat file that can be read: {error}") from error
    try:
        truth: Any = loadmat(io.BytesIO(data), variable_names=["GTcls"]).get("GTcls")
    except Exception as error:  # a stranger's file: the reader raises what it happens to meet
        raise RunError(f"`{path}` is no .mat file that can be read: {type(error).__name__} {error}") from error
    if truth is None or truth.dtype.names is None or "Segmentation" not in truth.dtype.names or not truth.size:
        raise RunError(f"`{path}` holds no `GTcls.Segmentation`; of SBD, the files of `dataset/cls` do")
    labels = truth.reshape(-1)[0]["Segmentation"]
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "uif" or not labels.size:
        raise RunError(f"`{path}`: `GTcls.Segmentation` is no matrix of numbers")
    if not ((labels >= 0) & (labels <= 255) & (labels == np.floor(labels))).all():
        raise RunError(
            f"`{path}`: `GTcls.Segmentation` is {labels.shape}, {labels.min()}..{labels.max()}, no label map"
        )
    whole: Picture = labels.astype(np.uint8)
    return whole


def _voc(root: Path) -> Path:
    for place in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if all((place / _LISTS / f"{split}.txt").is_file() for split in ("train", "val")):
            return place
    raise RmrkdError(
        f"no VOC 2012 in `{root}`, expected\n  {root}/\n    JPEGImages/NAME.jpg\n    SegmentationClass/NAME.png\n"
        f"    {_LISTS}/{{train,val}}.txt",
        "unpack VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC, and name it with --data-root DIR",
    )


def _sbd(folder: Path) -> Path:
    for place in (folder, folder / "dataset", folder / "benchmark_RELEASE" / "dataset"):
        if (place / "cls").is_dir() and all((place / f"{split}.txt").is_file() for split in ("train", "val")):
            return place
    raise RmrkdError(
        f"no SBD in `{folder}`, expected\n  {folder}/dataset/\n    cls/NAME.mat\n    train.txt\n    val.txt",
        "unpack benchmark.tgz of the Semantic Boundaries Dataset (Hariharan et al., 2011), and name its folder "
        "benchmark_RELEASE with --sbd DIR",
    )


def _need_scipy() -> None:
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        raise RmrkdError(f"scipy is not installed: {error}", install_extra_command("data")) from error


def _names(path: Path) -> set[str]:
    return set(read_valid_names(path))


def _verify_lists(root: Path, source: Path, lists: dict[str, set[str]], outcome: Outcome) -> None:
    """The lists as they stand, and every name's files."""
    failed = {path for path, _ in outcome.problems}
    for name, members in lists.items():
        target = root / _LISTS / f"{name}.txt"
        if target not in failed and {line.name for line in read_name_list(target)} != members:
            outcome.problems.append((target, "does not read back as it was written"))
    there = {path.stem for path in (root / _LABELS).glob("*.png")}
    pictures = {path.stem for path in (root / "JPEGImages").glob("*.jpg")}
    for name in sorted(lists["aug"] - there):
        mat = source / "cls" / f"{name}.mat"
        if mat not in failed:
            outcome.problems.append((mat, "does not exist, and a list of SBD names it"))
    outcome.problems += [
        (root / "JPEGImages" / f"{name}.jpg", "does not exist, and its label map does")
        for name in sorted(lists["aug"] & there - pictures)
    ]


def _tell_missing(outcome: Outcome, train: set[str], sbd_names: set[str]) -> None:
    found = outcome.images["train"]
    if found != FULL:
        outcome.notices.append(
            f"the set is not the full one: {found} training images instead of {FULL}, of {len(train)} names in VOC's "
            f"train.txt (1464 published) and {len(sbd_names)} in SBD's lists (11355 published)"
        )
