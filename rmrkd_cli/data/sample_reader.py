"""Read images and label maps, and convert label values to class indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.image_io import Picture, read_image
from rmrkd_cli.data.label_io import read_labels
from rmrkd_cli.data.samples import Sample, data_check_command
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.terminal.text import join_and

IGNORE = 255
_MAX_VOID = 5  # void rarely has more values; more are colours, or indices of another scheme
_INVALID = 254  # marks an invalid label value; with 255 classes it is also a class, so `allowed` decides


class Pair(NamedTuple):
    """One sample.

    Attributes:
        image: (H, W, 3), BGR.
        labels: (H, W), class indices and `IGNORE`.
    """

    image: Picture
    labels: Picture


class SampleFiles:
    """Reads the files of samples by index.

    Attributes:
        classes_of: For each of the 256 label values, its class index or `IGNORE`.
        allowed: For each label value, whether it may occur.
    """

    def __init__(self, info: DatasetInfo, samples: Sequence[Sample]) -> None:
        self.info = info
        self.samples = samples
        self.classes_of, self.allowed = label_tables(info)

    def __len__(self) -> int:
        return len(self.samples)

    def pair(self, index: int) -> Pair:
        """Return an image and its labels, all of them `IGNORE` for an image without a label map.

        Raises:
            CorruptFileError: When a file is missing or damaged.
            ImageFormatError: As `image`.
            RunError: When their sizes differ, or a label value is not a class.
        """
        image, sample = self.image(index), self.samples[index]
        if sample.label is None:
            return Pair(image, np.full(image.shape[:2], IGNORE, np.uint8))
        pair = Pair(image, self.labels(index))
        if pair.labels.shape != pair.image.shape[:2]:
            raise RunError(
                f"`{sample.image}` is {pair.image.shape[:2]} (height, width), its label map `{sample.label}` is "
                f"{pair.labels.shape}; they must be equal",
                data_check_command(self.info),
            )
        return pair

    def has_labels(self, index: int) -> bool:
        """Return whether an image has a label map."""
        return self.samples[index].label is not None

    def image(self, index: int) -> Picture:
        """Return an image (H, W, 3), BGR.

        Raises:
            CorruptFileError: When the file is missing or damaged.
            ImageFormatError: When its values are beyond 8 bits, and the data set has no `max_value`.
        """
        return read_image(self.samples[index].image, self.info.max_value)

    def labels(self, index: int) -> Picture:
        """Return the labels (H, W) of an image with a label map: class indices and `IGNORE`."""
        import cv2

        path = self.samples[index].label
        assert path is not None
        raw = read_labels(path)
        classes: Picture = cv2.LUT(raw, self.classes_of)
        if (classes == _INVALID).any() and not self.allowed[raw].all():
            values = np.unique(raw[~self.allowed[raw]]).tolist()
            raise RunError(
                f"`{path}` contains the label {values[0]}; `{self.info.name}` has classes "
                f"0..{self.info.num_classes - 1}, ignored values {', '.join(map(str, self.info.ignore_labels))}",
                fix_unknown_labels(self.info, values)
                or "correct the label map; for your own data, list values to ignore in `data.ignore_labels` of the "
                "preset",
            )
        return classes


def fix_unknown_labels(info: DatasetInfo, values: Sequence[int]) -> str:
    """Return how to fix a few label values of a custom data set that are neither a class nor ignored.

    Returns an empty text for other data sets, and for more values than void usually has.
    """
    if info.name != "custom" or not 0 < len(values) <= _MAX_VOID:
        return ""
    shown = join_and([*map(str, values)])
    one, count = len(values) == 1, info.num_classes
    ignored = sorted({*values, *info.ignore_labels})
    added = "add its name" if one else "add their names"
    as_class = f"{added} to `data.classes`"
    if list(values) != list(range(count, count + len(values))):
        as_class = f"store the number of its class, from 0 to {count - 1}, in each pixel"
    return (
        f"if {shown} mean{'s' * one} void, set `data.ignore_labels: {ignored}` in the preset; "
        f"if {'it is a class' if one else 'they are classes'}, {as_class}"
    )


def label_tables(info: DatasetInfo) -> tuple[Picture, NDArray[np.bool_]]:
    """Return, for each of the 256 label values, its class index, `IGNORE` or `_INVALID`, and whether it is allowed."""
    if info.num_classes > IGNORE:
        raise RmrkdError(f"8-bit label maps allow at most 255 classes, `{info.name}` has {info.num_classes}")
    table = np.full(256, -1, np.int16)
    first = 1 if info.reduce_zero_label else 0
    table[first : first + info.num_classes] = np.arange(info.num_classes)
    table[[*info.ignore_labels, *([0] if info.reduce_zero_label else [])]] = IGNORE
    allowed = table >= 0
    return np.where(allowed, table, _INVALID).astype(np.uint8), allowed
