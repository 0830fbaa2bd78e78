"""Make the trainId label maps of Cityscapes from its `gtFine` archive."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.image_io import MAX_PIXELS, Picture
from rmrkd_cli.data.label_histogram import count_values
from rmrkd_cli.data.label_io import read_labels
from rmrkd_cli.data.prepare.new_files import describe_links, remove_partial_files
from rmrkd_cli.data.prepare.pipeline import Conversion, PrepareResult, Progress, convert_label_maps
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.installation.requirements import install_extra_command
from rmrkd_cli.storage.memory_limit import limit_memory
from rmrkd_cli.storage.regular_file import error_reason, read_regular

IGNORED = 255
_IDS, _POLYGONS = "_gtFine_labelIds.png", "_gtFine_polygons.json"
_VALUES = (*range(19), IGNORED)
_MAX_POLYGON_BYTES = 1 << 24  # the largest published file has 0.4 MB
_MAX_UNPACKED = 1 << 30  # bytes in memory
_MAX_DRAWN = 1 << 34  # pixels, in about 20 seconds; a published file has at most a fifteenth
_TREE = """  {root}/
    gtFine/{{train,val,test}}/TOWN/NAME_gtFine_labelIds.png      (or NAME_gtFine_polygons.json)
    leftImg8bit/{{train,val,test}}/TOWN/NAME_leftImg8bit.png"""


def prepare_cityscapes(info: DatasetInfo, workers: int, on_progress: Progress) -> PrepareResult:
    """Write `*_gtFine_labelTrainIds.png` beside the other annotation files of every image.

    Raises:
        RmrkdError: When `gtFine` or cityscapesscripts is missing.
        OSError: When a file cannot be written.
    """
    splits = {split: list(_conversions(info, split)) for split in info.splits}
    conversions = [conversion for members in splits.values() for conversion in members]
    if not conversions:
        raise RmrkdError(
            f"`{info.root / 'gtFine'}` contains no `*{_IDS}` and no `*{_POLYGONS}`; the layout of Cityscapes is\n"
            + _TREE.format(root=info.root),
            "download gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip from cityscapes-dataset.com (with an "
            "account) and unpack them there, or give another folder with --data-root DIR",
        )
    train_ids()  # stops here if cityscapesscripts is missing
    remove_partial_files(info.root / "gtFine")
    result = convert_label_maps(conversions, workers, on_progress)
    result.root = info.root
    result.notices += describe_links(info.root, (conversion.target for conversion in conversions))
    result.images = {split: len(members) for split, members in splits.items() if members}
    if result.images.get("test"):
        result.notices.append("the published label maps of `test` are empty: all of their pixels are ignored")
    return result


@cache
def train_ids() -> tuple[int, ...]:
    """Return the trainId of each of the 256 values of a labelIds map; -1 for a value that is not an id.

    Raises:
        RmrkdError: When cityscapesscripts is not installed.
    """
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
    """Return trainIds (H, W) from a labelIds PNG.

    Raises:
        RunError: When the file cannot be read, or contains a value that is not an id.
    """
    import cv2

    ids = read_labels(path)
    table = np.array(train_ids(), np.int16)
    invalid = np.flatnonzero((count_values(ids) > 0) & (table < 0))
    if invalid.size:
        raise RunError(f"`{path}` contains {invalid[0]}, which is not a labelId of Cityscapes (0..33)")
    labels: Picture = cv2.LUT(ids, table.astype(np.uint8))
    return labels


def from_polygons(path: Path) -> Picture:
    """Return trainIds (H, W) drawn by cityscapesscripts from a polygon file.

    Raises:
        RunError: When the file cannot be read or drawn.
    """
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    printed = io.StringIO()
    try:
        annotation = Annotation()
        with limit_memory(_MAX_UNPACKED):
            annotation.fromJsonText(read_regular(path, _MAX_POLYGON_BYTES).decode())
        width, height = annotation.imgWidth, annotation.imgHeight
        if not 0 < width * height <= MAX_PIXELS:
            raise ValueError(f"image size {width}x{height}, at most {MAX_PIXELS} pixels are allowed")
        if len(annotation.objects) * width * height > _MAX_DRAWN:
            count = len(annotation.objects)
            raise ValueError(
                f"{count} objects of up to {width}x{height} pixels, at most {_MAX_DRAWN:g} pixels are drawn"
            )
        with redirect_stdout(printed), redirect_stderr(printed):
            labels: Picture = np.asarray(createLabelImage(annotation, "trainIds"))
    except OSError as error:
        raise RunError(f"`{path}` cannot be read: {error_reason(error)}") from error
    except MemoryError as error:
        raise RunError(f"`{path}` takes more than {_MAX_UNPACKED >> 20} MiB to unpack") from error
    except (Exception, SystemExit) as error:  # cityscapesscripts exits when it does not know a label
        errors = [line for line in printed.getvalue().splitlines() if line.startswith("ERROR: ")]
        reason = errors[0].removeprefix("ERROR: ") if errors else f"{type(error).__name__}: {error}"
        raise RunError(f"`{path}` is not a valid polygon file: {reason}") from error
    return labels


def _conversions(info: DatasetInfo, split: str) -> Iterator[Conversion]:
    layout = info.splits[split]
    (_, labels), *_ = layout.parts
    folder = info.root / str(labels)
    ids, polygons = _files_by_name(folder, _IDS), _files_by_name(folder, _POLYGONS)
    for name in sorted({*ids, *polygons}):
        convert, source = (from_label_ids, ids[name]) if name in ids else (from_polygons, polygons[name])
        image = info.root / layout.images / (name + info.image_suffix)
        yield Conversion(convert, source, folder / (name + info.label_suffix), image, _VALUES)


def _files_by_name(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix()[: -len(suffix)]: path for path in folder.rglob(f"*{suffix}")}
