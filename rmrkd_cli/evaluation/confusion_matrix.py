"""The confusion matrix, and the segmentation metrics computed from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError


@dataclass(frozen=True)
class Metrics:
    """Segmentation metrics from 0 to 1; per-class metrics have shape (K,), float64, NaN for an absent class.

    Attributes:
        iou: intersection / union.
        accuracy: intersection / truth.
        dice: 2 intersection / (truth + prediction).
        miou, macc, mdice: Means over the classes that are not NaN.
        aacc: Correct pixels / counted pixels.
    """

    iou: Tensor
    accuracy: Tensor
    dice: Tensor
    miou: float
    macc: float
    aacc: float
    mdice: float


class ConfusionMatrix:
    """Count the (truth, prediction) pairs of pixels, image by image.

    The metrics equal those of `mmseg.core.eval_metrics` (mmsegmentation 0.30.0).

    Args:
        num_classes: K; labels and predictions are 0..K-1.
        ignore_index: Pixels with this label are not counted.

    Attributes:
        matrix: Counts (K, K), int64; rows are the truth, columns the prediction.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise RmrkdError(f"a confusion matrix needs at least 1 class, got {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Count the pixels of one image or batch.

        Args:
            prediction: Class indices, any shape.
            labels: Class indices or `ignore_index`, same shape.

        Raises:
            RmrkdError: The shapes differ, the type is not an integer, or a value is neither a class nor `ignore_index`.
        """
        if prediction.shape != labels.shape:
            raise RmrkdError(f"prediction {tuple(prediction.shape)} and labels {tuple(labels.shape)} differ in shape")
        if prediction.is_floating_point() or labels.is_floating_point():
            raise RmrkdError(f"class indices must be integers, got {prediction.dtype} and {labels.dtype}")
        if labels.numel() == 0:
            return
        ignored = labels == self.ignore_index
        truth = labels.to(torch.int64).masked_fill(ignored, 0)
        predicted = prediction.to(torch.int64).masked_fill(ignored, 0)
        self._check(truth, predicted)
        pairs = truth.mul_(self.num_classes).add_(predicted).masked_fill_(ignored, self.num_classes**2)
        counts = torch.bincount(pairs.flatten(), minlength=self.num_classes**2 + 1)[:-1]
        self.matrix = self.matrix.to(counts.device) + counts.view(self.num_classes, self.num_classes)

    def _check(self, truth: Tensor, predicted: Tensor) -> None:
        bounds = torch.stack([*torch.aminmax(truth), *torch.aminmax(predicted)]).tolist()  # one device sync
        for name, low, high in (("label", *bounds[:2]), ("prediction", *bounds[2:])):
            if low < 0 or high >= self.num_classes:
                value = low if low < 0 else high
                raise RmrkdError(
                    f"{name} {value} is outside 0..{self.num_classes - 1} and is not the ignore index "
                    f"{self.ignore_index}"
                )

    def result(self) -> Metrics:
        """Return the metrics of everything counted so far."""
        counts = self.matrix.double().cpu()
        correct, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        iou = correct / (truth + predicted - correct)
        accuracy, dice = correct / truth, 2 * correct / (truth + predicted)
        return Metrics(
            iou=iou,
            accuracy=accuracy,
            dice=dice,
            miou=iou.nanmean().item(),
            macc=accuracy.nanmean().item(),
            aacc=(correct.sum() / counts.sum()).item(),
            mdice=dice.nanmean().item(),
        )
