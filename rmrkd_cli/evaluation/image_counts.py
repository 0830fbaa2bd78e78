"""Pixel counts of a whole split and of each image, which the bootstrap of `compare` resamples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmrkd_cli.data.samples import Sample
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.boundary import boundary_counts
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.evaluation.result_record import none_if_nan


class ImageCounts(ConfusionMatrix):
    """A confusion matrix that also keeps the per-class counts of each image.

    The counts of an image are correct, true and predicted pixels per class: IoU, accuracy and Dice follow from them.

    Args:
        boundary_width: Count the pixels in the boundaries of the classes too, which are so wide, as a share of the
            image's diagonal; None: not.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, boundary_width: float | None = None) -> None:
        super().__init__(num_classes, ignore_index)
        self.boundary_width = boundary_width
        self._images: dict[int, Tensor] = {}
        self._boundaries: dict[int, Tensor] = {}

    def update_image(self, index: int, prediction: Tensor, labels: Tensor) -> None:
        """Count all pixels of image `index`, both maps (H, W); see `update`."""
        image = ConfusionMatrix(self.num_classes, self.ignore_index)
        image.update(prediction, labels)
        counts = image.matrix
        self.matrix = self.matrix.to(counts.device) + counts
        self._images[index] = torch.stack([counts.diagonal(), counts.sum(1), counts.sum(0)])
        if self.boundary_width is not None:
            self._boundaries[index] = boundary_counts(
                prediction, labels, self.num_classes, self.ignore_index, self.boundary_width
            )

    def gather(self, dist_ctx: DistContext) -> None:
        """Sum the counts of all ranks, on every rank."""
        self.matrix = dist_ctx.all_reduce_sum(self.matrix)
        self._images = _gather_images(self._images, dist_ctx)
        if self.boundary_width is not None:
            self._boundaries = _gather_images(self._boundaries, dist_ctx)

    def per_image(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return the record's `per_image`: names, and per image a flat list of class, correct, true, predicted.

        Args:
            samples: All samples that were counted, in the order of their indices.
        """
        counts = [_flat_counts(self._images[index]) for index in range(len(samples))]
        return {"names": [sample.name for sample in samples], "counts": counts}

    def boundary(self, samples: Sequence[Sample]) -> dict[str, Any] | None:
        """Return the record's `boundary`: width, IoU of each class, mean, and counts as in `per_image`.

        The counts of a class are its boundary pixels in both, in the labels and in the prediction. None: not counted.

        Args:
            samples: As for `per_image`.
        """
        if self.boundary_width is None:
            return None
        images = [self._boundaries[index] for index in range(len(samples))]
        both, true, predicted = torch.stack(images).sum(0).double()
        iou = both / (true + predicted - both)
        return {
            "width": self.boundary_width,
            "miou": none_if_nan(iou.nanmean().item()),
            "iou": [none_if_nan(value) for value in iou.tolist()],
            "counts": [_flat_counts(each) for each in images],
        }


def _gather_images(own: dict[int, Tensor], dist_ctx: DistContext) -> dict[int, Tensor]:
    """Return the counts of the images of all ranks."""
    moved = [(index, counts.cpu()) for index, counts in own.items()]
    return dict(pair for pairs in dist_ctx.all_gather(moved) for pair in pairs)


def _flat_counts(counts: Tensor) -> list[int]:
    """Return class, hit, true and predicted pixels of each class in labels or prediction, one after the other."""
    present = (counts[1] + counts[2]).nonzero()
    flat: list[int] = torch.cat([present, counts.T[present[:, 0]]], dim=1).flatten().tolist()
    return flat
