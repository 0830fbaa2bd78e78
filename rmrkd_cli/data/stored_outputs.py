"""Read the stored teacher outputs of training samples, and cut from them what belongs to a crop of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.map_file import SUFFIX, MapFileError, StoredMap, all_classes, image_signature, read_map, same_image
from rmrkd_cli.data.map_geometry import Axis, Coordinates, resized, sample
from rmrkd_cli.data.resize_crop import Window
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import RmrkdError

MAPS = "maps"  # the folder of the files, below that of the index
REFILL = "run the same `rmrkd cache-teacher` command again: it writes files that are missing or damaged"
REFILL_OTHERS = (
    "run `rmrkd cache-teacher` again for the images of this command, with the same --data-root and --unlabelled: it "
    "adds what is missing"
)


@dataclass(frozen=True)
class OutputFormat:
    """What the files of a folder must have in common.

    Attributes:
        folder: Of the index.
        identity: Of teacher and preprocessing.
        num_classes: K.
        top_k: Classes that are stored of each position; None: all.
        align_corners: How the teacher's logits are resized.
        stride: Pixels of the teacher's input between two positions of its logits.
    """

    folder: str
    identity: str
    num_classes: int
    top_k: int | None
    align_corners: bool
    stride: int

    def path(self, name: str) -> Path:
        """Return the file of a sample."""
        return Path(self.folder) / MAPS / f"{name}{SUFFIX}"

    def read(self, name: str) -> StoredMap:
        """Return the outputs for a sample.

        Raises:
            MapFileError: The file is missing, damaged, or of another teacher or preprocessing.
        """
        stored = read_map(self.path(name))
        if stored.identity != self.identity:
            raise MapFileError("is of another teacher, other classes or another preprocessing than its index names")
        values, count = stored.values, self.top_k or self.num_classes
        right = values.dim() == 3 and len(values) == count and values.dtype == torch.float16 and values.numel() > 0
        if right and self.top_k is not None:
            classes, rest = stored.classes, stored.rest
            right = classes is not None and rest is not None and classes.shape == values.shape
            right = right and rest.shape == values.shape[1:] and int(classes.max()) < self.num_classes  # type: ignore[union-attr]
        if not right or (self.top_k is None) != (stored.classes is None):
            raise MapFileError(f"has the shape {tuple(values.shape)}, which is not that of {count} classes")
        return stored

    def crop_size(self, crop: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the logits that the teacher itself would give for a crop."""
        return -(-crop[0] // self.stride), -(-crop[1] // self.stride)


class StoredOutputs:
    """The teacher's logits for crops of training images.

    Args:
        form: What all files have in common.
        samples: Of the run, by index.
        crop: (height, width) of crops, padded at the right and bottom where the image is smaller.
        size: (height, width) of the student's logits for a crop. The logits of a crop have this size, or in a direction
            in which the teacher's own are smaller, the size of those.

    Attributes:
        size: (height, width) of the logits of a crop.
    """

    def __init__(
        self, form: OutputFormat, samples: Sequence[Sample], *, crop: tuple[int, int], size: tuple[int, int]
    ) -> None:
        self.form, self.samples = form, samples
        own = form.crop_size(crop)
        self.size = (min(size[0], own[0]), min(size[1], own[1]))
        self._pixels = tuple(
            _crop_pixels(count, pixels, Axis(theirs, pixels, form.align_corners))
            for count, theirs, pixels in zip(self.size, own, crop, strict=True)
        )

    def crop(self, index: int, image: Picture, window: Window, *, flipped: bool) -> Tensor:
        """Return the logits (K, h, w), float16, of a window of a sample's resized image.

        Positions in the padding of a crop get the logits of the image's border.

        Args:
            image: The image of the file (H, W, 3).
            window: What was cut from the resized image, and then mirrored if `flipped`.

        Raises:
            RmrkdError: The sample's file cannot be used.
        """
        stored = self._read(index, image)
        rows, columns = self._pixels
        rows, columns = rows.clip(max=window.height - 1), columns.clip(max=window.width - 1)
        if flipped:
            columns = window.width - 1 - columns
        places = []
        for axis, pixels in enumerate((rows + window.top, columns + window.left)):
            fitted = resized(pixels, window.scaled[axis], stored.fitted[axis])
            fitted = fitted.clip(0, stored.fitted[axis] - 1)  # not into the padding of the stored map
            along = Axis(stored.values.shape[1 + axis], stored.covered[axis], self.form.align_corners)
            places.append(along.to_positions(fitted))
        return sample(all_classes(stored, self.form.num_classes), *places).half()

    def _read(self, index: int, image: Picture) -> StoredMap:
        name = self.samples[index].name
        try:
            stored = self.form.read(name)
            if stored.image != image.shape[:2] or not same_image(stored.signature, image_signature(image)):
                raise MapFileError("is of another image of this name, or the image was changed")
        except MapFileError as error:
            fix = "delete it, and " if "another" in str(error) else ""
            raise RmrkdError(f"the stored teacher output `{self.form.path(name)}` {error}", fix + REFILL) from None
        return stored


def _crop_pixels(positions: int, pixels: int, teacher: Axis) -> Coordinates:
    """Return the pixel of the crop at which each position lies: logits of other sizes are resized edge to edge."""
    between = Axis(positions, teacher.positions, align_corners=False)
    return teacher.to_pixels(between.to_pixels(np.arange(positions, dtype=np.float64)))
