"""Segmentation metrics: integer counts first, ratios after."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError


@dataclass(frozen=True)
class Metrics:
    """Ratios in 0..1, per class of shape (K,) in float64, NaN for a class that never occurs.

    iou: intersection / union; accuracy: intersection / truth; dice: 2 intersection / (truth + prediction).
    miou, macc, mdice: means over the classes that are not NaN; aacc: share of the counted pixels that are right.
    """

    iou: Tensor
    accuracy: Tensor
    dice: Tensor
    miou: float
    macc: float
    aacc: float
    mdice: float


class ConfusionMatrix:
    """Pixel counts of (truth, prediction) pairs, streamed image by image.

    The ratios equal `mmseg.core.eval_metrics` (mmsegmentation 0.30.0) on the same counts.

    Args:
        num_classes: K; labels and predictions are 0..K-1.
        ignore_index: Label of the pixels that are not counted.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise RmrkdError(f"a confusion matrix needs at least 1 class, got {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Counts one image or batch.

        Args:
            prediction: Class indices, any shape.
            labels: Class indices or `ignore_index`, same shape.

        Raises:
            RmrkdError: On unequal shapes, other than integers, or a value that is neither a class nor `ignore_index`.
        """
        if prediction.shape != labels.shape:
            raise RmrkdError(f"prediction {tuple(prediction.shape)} and labels {tuple(labels.shape)} differ in shape")
        if prediction.is_floating_point() or labels.is_floating_point():
            raise RmrkdError(f"class indices must be integers, got {prediction.dtype} and {labels.dtype}")
        if labels.numel() == 0:
            return
        ignored = labels == self.ignore_index
        truth = labels.to(torch.int64).masked_fill(ignored, 0)
        guess = prediction.to(torch.int64).masked_fill(ignored, 0)
        self._check(truth, guess)
        pairs = truth.mul_(self.num_classes).add_(guess).masked_fill_(ignored, self.num_classes**2)
        counts = torch.bincount(pairs.flatten(), minlength=self.num_classes**2 + 1)[:-1]
        self.matrix = self.matrix.to(counts.device) + counts.view(self.num_classes, self.num_classes)

    def _check(self, truth: Tensor, guess: Tensor) -> None:
        bounds = torch.stack([*torch.aminmax(truth), *torch.aminmax(guess)]).tolist()  # one wait for a GPU
        for name, low, high in (("label", *bounds[:2]), ("prediction", *bounds[2:])):
            if low < 0 or high >= self.num_classes:
                bad = low if low < 0 else high
                raise RmrkdError(
                    f"{name} {bad} is outside 0..{self.num_classes - 1}, and not the ignored {self.ignore_index}"
                )

    def result(self) -> Metrics:
        """The ratios of everything counted so far."""
        counts = self.matrix.double().cpu()
        hit, truth, guess = counts.diagonal(), counts.sum(1), counts.sum(0)
        iou, accuracy, dice = hit / (truth + guess - hit), hit / truth, 2 * hit / (truth + guess)
        return Metrics(
            iou=iou,
            accuracy=accuracy,
            dice=dice,
            miou=iou.nanmean().item(),
            macc=accuracy.nanmean().item(),
            aacc=(hit.sum() / counts.sum()).item(),
            mdice=dice.nanmean().item(),
        )
