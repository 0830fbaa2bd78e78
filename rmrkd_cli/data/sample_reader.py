"""Images and label maps, read from their files and checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.image_io import Picture, read_image, read_labels
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import RmrkdError, RunError

IGNORE = 255
_BAD = 254  # marks a label value that is no class; never a class itself, or it is checked apart


class Pair(NamedTuple):
    """image: (H, W, 3), blue first; labels: (H, W), classes and `IGNORE`."""

    image: Picture
    labels: Picture


class SampleFiles:
    """Reads the files of samples and turns label values into classes."""

    def __init__(self, info: DatasetInfo, samples: list[Sample]) -> None:
        self.info = info
        self.samples = samples
        self.classes_of, self.allowed = label_tables(info)

    def __len__(self) -> int:
        return len(self.samples)

    def pair(self, index: int) -> Pair:
        """An image with its labels.

        Raises:
            CorruptError: Naming the file, when one is missing or damaged.
            RunError: Naming the file, when their sizes differ, or a label is no class.
        """
        pair = Pair(self.image(index), self.labels(index))
        if pair.labels.shape != pair.image.shape[:2]:
            sample = self.samples[index]
            raise RunError(
                f"`{sample.image}` is {pair.image.shape[:2]} (height, width), its label map `{sample.label}` is "
                f"{pair.labels.shape}"
            )
        return pair

    def image(self, index: int) -> Picture:
        """(H, W, 3), blue first."""
        return read_image(self.samples[index].image)

    def labels(self, index: int) -> Picture:
        """(H, W), classes and `IGNORE`."""
        import cv2

        path = self.samples[index].label
        raw = read_labels(path)
        classes: Picture = cv2.LUT(raw, self.classes_of)
        if (classes == _BAD).any() and not self.allowed[raw].all():
            value = int(raw[~self.allowed[raw]][0])
            raise RunError(
                f"`{path}` holds the label {value}; `{self.info.name}` has the classes 0..{self.info.num_classes - 1}"
                f" and ignores {', '.join(map(str, self.info.ignore_labels))}",
                "for a data set of your own, name further values under `data.ignore_labels` of the preset",
            )
        return classes


def label_tables(info: DatasetInfo) -> tuple[Picture, NDArray[np.bool_]]:
    """For each value of a label file: the class, `IGNORE` or `_BAD`; and whether it may occur."""
    if info.num_classes > IGNORE:
        raise RmrkdError(f"label maps of 8 bits hold at most 255 classes, `{info.name}` has {info.num_classes}")
    table = np.full(256, -1, np.int16)
    first = 1 if info.reduce_zero_label else 0
    table[first : first + info.num_classes] = np.arange(info.num_classes)
    table[[*info.ignore_labels, *([0] if info.reduce_zero_label else [])]] = IGNORE
    allowed = table >= 0
    return np.where(allowed, table, _BAD).astype(np.uint8), allowed
