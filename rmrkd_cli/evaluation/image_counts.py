"""Counts of a whole split, and of each of its images: what a result says, and what its uncertainty is found from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmrkd_cli.data.samples import Sample
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix


class ImageCounts(ConfusionMatrix):
    """A confusion matrix that also keeps, for each image, the sums that IoU, accuracy and Dice are made from."""

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__(num_classes, ignore_index)
        self._images: dict[int, Tensor] = {}

    def count(self, index: int, prediction: Tensor, labels: Tensor) -> None:
        """As `update`, for all of the image `index` at once."""
        image = ConfusionMatrix(self.num_classes, self.ignore_index)
        image.update(prediction, labels)
        counts = image.matrix
        self.matrix = self.matrix.to(counts.device) + counts
        self._images[index] = torch.stack([counts.diagonal(), counts.sum(1), counts.sum(0)])

    def gather(self, world: DistContext) -> None:
        """Adds up the counts of all workers, who share the images, on every worker."""
        self.matrix = world.sum(self.matrix)
        held = [(index, sums.cpu()) for index, sums in self._images.items()]
        self._images = dict(pair for share in world.gather(held) for pair in share)

    def per_image(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The record's `per_image`: names, and for each image a flat list of class, right, truth, predicted.

        Args:
            samples: All that were counted, in their order.
        """
        counts = []
        for index in range(len(samples)):
            sums = self._images[index]
            present = (sums[1] + sums[2]).nonzero()
            quadruples = torch.cat([present, sums.T[present[:, 0]]], dim=1)
            counts.append(quadruples.flatten().tolist())
        return {"names": [sample.name for sample in samples], "counts": counts}
