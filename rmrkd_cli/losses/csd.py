"""CSD: the second part of double similarity distillation (DSD), on classes."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.presets.fields import Positive


class CSDLoss(DistillationLoss):
    """Match how similar the classes' distributions over positions are: category-wise similarity distillation.

    Logits are averaged over 2x2 positions. Each class's become a distribution over the remaining positions, and the
    products of all pairs of classes are compared.

    Source: Y. Feng, X. Sun, W. Diao, J. Li, X. Gao, "Double Similarity Distillation for Semantic Image Segmentation",
    IEEE TIP 30, 2021, in the form of CIRKD (`losses/dsd.py` at dab64db). The value is tiny (about 1e-6), so the
    source's weight of 10 has almost no effect. The gradient is proportional to the distance of the student's
    distributions from uniform, so it is near 0 at the start, and a weight computed there is far too large. Ignored
    pixels count.

    Args:
        num_classes: K, the channels of the logits.
        tau: Temperature; the value is not multiplied by its square.
    """

    default_stage = "logits"
    map_name = "logits"
    search = {"tau": (1.0, 10.0)}

    def __init__(self, num_classes: int, tau: Positive = 4.0) -> None:
        super().__init__(num_classes, num_classes)
        self.num_classes = num_classes
        self.tau = tau

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the mean over B and all K x K pairs of squared differences."""
        return F.mse_loss(self._products(student), self._products(teacher))

    def _products(self, logits: Tensor) -> Tensor:
        """Return (B, K, K), each less 1 / P', the product of two uniform distributions, which is most of the value."""
        pooled = F.avg_pool2d(logits, kernel_size=2, stride=2, ceil_mode=True).flatten(2)
        peaks = (pooled / self.tau).softmax(2) - 1 / pooled.shape[2]
        return peaks @ peaks.transpose(1, 2)
