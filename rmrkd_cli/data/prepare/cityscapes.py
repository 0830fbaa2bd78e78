"""Cityscapes' trainId label maps, from the `gtFine` it is published with."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.image_io import Picture, read_labels
from rmrkd_cli.data.label_histogram import count_values
from rmrkd_cli.data.prepare.pipeline import Outcome, Progress, Task, run
from rmrkd_cli.data.prepare.polygons import read_polygons
from rmrkd_cli.data.prepare.write_once import clear_partials, linked
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.installation.requirements import install_extra_command

IGNORED = 255
_IDS, _POLYGONS = "_gtFine_labelIds.png", "_gtFine_polygons.json"
_VALUES = (*range(19), IGNORED)
_TREE = """  {root}/
    gtFine/{{train,val,test}}/TOWN/NAME_gtFine_labelIds.png      (or NAME_gtFine_polygons.json)
    leftImg8bit/{{train,val,test}}/TOWN/NAME_leftImg8bit.png"""


def prepare_cityscapes(info: DatasetInfo, workers: int, on_progress: Progress) -> Outcome:
    """Writes `*_gtFine_labelTrainIds.png` beside every labelled image's other files.

    Raises:
        RmrkdError: Without `gtFine`, or without cityscapesscripts.
    """
    splits = {split: list(_tasks(info, split)) for split in info.splits}
    tasks = [task for members in splits.values() for task in members]
    if not tasks:
        tree = _TREE.format(root=info.root)
        raise RmrkdError(
            f"`{info.root / 'gtFine'}` holds no `*{_IDS}` and no `*{_POLYGONS}`, expected\n{tree}",
            "gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip of cityscapes-dataset.com (with an account) are "
            "unpacked there; another place is given with --data-root DIR",
        )
    train_ids()  # says at once when the library is missing
    clear_partials(info.root / "gtFine")
    outcome = run(tasks, workers, on_progress)
    outcome.root = info.root
    outcome.notices += linked(info.root, (task.target for task in tasks))
    outcome.images = {split: len(members) for split, members in splits.items() if members}
    if outcome.images.get("test"):
        outcome.notices.append("the label maps published for `test` are empty: everything in them is ignored")
    return outcome


def _tasks(info: DatasetInfo, split: str) -> Iterator[Task]:
    layout = info.splits[split]
    (_, labels), *_ = layout.parts
    folder = info.root / labels
    from_ids = {_name(path, folder, _IDS): path for path in sorted(folder.rglob(f"*{_IDS}"))}
    drawn = {_name(path, folder, _POLYGONS): path for path in sorted(folder.rglob(f"*{_POLYGONS}"))}
    for name in sorted({*from_ids, *drawn}):
        make, source = (from_label_ids, from_ids[name]) if name in from_ids else (from_polygons, drawn[name])
        image = info.root / layout.images / (name + info.image_suffix)
        yield Task(make, source, folder / (name + info.label_suffix), image, _VALUES)


def _name(path: Path, folder: Path, suffix: str) -> str:
    return path.relative_to(folder).as_posix()[: -len(suffix)]


@cache
def train_ids() -> tuple[int, ...]:
    """For each of the 256 values of a labelIds map its trainId; -1 where it is no id."""
    try:
        from cityscapesscripts.helpers.labels import labels
    except ImportError as error:
        raise RmrkdError(f"cityscapesscripts is not installed: {error}", install_extra_command("data")) from error
    table = [-1] * 256
    for label in labels:
        if label.id >= 0:
            table[label.id] = label.trainId
    return tuple(table)


def from_label_ids(path: Path) -> Picture:
    """Labels (H, W) from a labelIds PNG, which was drawn from the same polygons and carries checksums.

    Raises:
        RunError: When it cannot be read, or holds a value that is no id.
    """
    import cv2

    ids = read_labels(path)
    table = np.array(train_ids(), np.int16)
    strange = np.flatnonzero((count_values(ids) > 0) & (table < 0))
    if strange.size:
        raise RunError(f"`{path}` holds {strange[0]}, which is no labelId of Cityscapes (0..33)")
    labels: Picture = cv2.LUT(ids, table.astype(np.uint8))
    return labels


def from_polygons(path: Path) -> Picture:
    """Labels (H, W), drawn by cityscapesscripts.

    Raises:
        RunError: When the file does not hold the polygons of an image, or more than are drawn in seconds.
    """
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    printed = io.StringIO()
    try:
        annotation = Annotation()
        annotation.fromJsonText(read_polygons(path))
        with redirect_stdout(printed), redirect_stderr(printed):
            picture = createLabelImage(annotation, "trainIds")
    except SystemExit as error:  # the library's way to say that a label is unknown
        why = next((line for line in printed.getvalue().splitlines() if line.startswith("ERROR: ")), "ERROR: refused")
        raise RunError(f"`{path}` cannot be drawn: {why.removeprefix('ERROR: ')}") from error
    except json.JSONDecodeError as error:
        raise RunError(f"`{path}` is no JSON: {error}") from error
    except RunError:
        raise
    except Exception as error:  # whatever the library meets in a file of another form
        raise RunError(f"`{path}` does not hold polygons: {type(error).__name__} {error}") from error
    labels: Picture = np.asarray(picture)
    return labels
