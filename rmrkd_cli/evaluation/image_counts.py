"""Pixel counts of a whole split and of each image, which the bootstrap of `compare` resamples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmrkd_cli.data.samples import Sample
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix


class ImageCounts(ConfusionMatrix):
    """A confusion matrix that also keeps the per-class counts of each image.

    The counts of an image are correct, true and predicted pixels per class: IoU, accuracy and Dice follow from them.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__(num_classes, ignore_index)
        self._images: dict[int, Tensor] = {}

    def update_image(self, index: int, prediction: Tensor, labels: Tensor) -> None:
        """Count all pixels of image `index`; see `update`."""
        image = ConfusionMatrix(self.num_classes, self.ignore_index)
        image.update(prediction, labels)
        counts = image.matrix
        self.matrix = self.matrix.to(counts.device) + counts
        self._images[index] = torch.stack([counts.diagonal(), counts.sum(1), counts.sum(0)])

    def gather(self, dist_ctx: DistContext) -> None:
        """Sum the counts of all ranks, on every rank."""
        self.matrix = dist_ctx.all_reduce_sum(self.matrix)
        own = [(index, sums.cpu()) for index, sums in self._images.items()]
        self._images = dict(pair for pairs in dist_ctx.all_gather(own) for pair in pairs)

    def per_image(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return the record's `per_image`: names, and per image a flat list of class, correct, true, predicted.

        Args:
            samples: All samples that were counted, in the order of their indices.
        """
        counts = []
        for index in range(len(samples)):
            sums = self._images[index]
            present = (sums[1] + sums[2]).nonzero()
            quadruples = torch.cat([present, sums.T[present[:, 0]]], dim=1)
            counts.append(quadruples.flatten().tolist())
        return {"names": [sample.name for sample in samples], "counts": counts}
