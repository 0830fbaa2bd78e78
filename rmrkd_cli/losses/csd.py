"""CSD: the second part of double similarity distillation (DSD), on classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses._functional import check_pair, working_precision


class CSDLoss(nn.Module):
    """How alike the classes' distributions over positions are follows the teacher's: category-wise similarity.

    Logits are averaged over 2x2 positions, each class's become a distribution over what is left, and the products of
    all pairs of classes are compared.

    Source: Y. Feng, X. Sun, W. Diao, J. Li, X. Gao, "Double Similarity Distillation for Semantic Image Segmentation",
    IEEE TIP 30, 2021, in the form of CIRKD (`losses/dsd.py` at dab64db). The products are of the order of 1 over the
    positions, so the value is tiny (about 1e-6) and its weight of 10 does next to nothing. Its gradient is in
    proportion to how far the student's distributions are from uniform, hence almost none at first: a weight that is
    computed from the first steps is far too large. Ignored pixels count.

    Args:
        num_classes: K, equal to the logits' channels.
        tau: Temperature; the value is not multiplied with its square.
    """

    def __init__(self, num_classes: int, tau: float = 4.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar: mean over B and all K x K pairs of squared differences.

        Args:
            student: (B, K, H, W) logits.
            teacher: (B, K, H, W) logits; receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "logits", (self.num_classes, self.num_classes))
        with torch.autocast(student.device.type, enabled=False):
            ours = working_precision(student)
            return F.mse_loss(self._products(ours), self._products(teacher.detach().to(ours.dtype)))

    def _products(self, logits: Tensor) -> Tensor:
        """(B, K, K): each less 1 / P', the product of uniform distributions, which all have and which is most of it."""
        pooled = F.avg_pool2d(logits, kernel_size=2, stride=2, ceil_mode=True).flatten(2)
        peaks = (pooled / self.tau).softmax(2) - 1 / pooled.shape[2]
        return peaks @ peaks.transpose(1, 2)
