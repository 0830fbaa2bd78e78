"""KD: the class probabilities of every pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses._functional import check_choice, check_pair, kl_divergence, working_precision

REDUCTIONS = ("pixels", "elements", "skd", "mmrazor", "mmrazor-mean")


class KDLoss(nn.Module):
    """The student's distribution over classes at each position follows the teacher's.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", NIPS 2014 workshop; for
    each pixel as in Y. Liu et al., CVPR 2019. Releases divide the sum of KL(teacher || student) differently, so a
    weight means nothing without its reduction:

    - "pixels": by the B H W positions, times tau^2; the canonical form (CIRKD, `losses/kd.py:16-23` at dab64db).
    - "elements": by B K H W, without tau^2 (IFVD at 950a7a5, TorchDistiller at c2caaca); 1 / K of "pixels" at tau 1.
    - "skd": by H W and not by B, without tau^2, and a cross-entropy, so that the teacher's entropy is in it as a
      constant (SKD, `criterion.py` at 3914ec7, which has tau 1); B times "pixels" plus that constant.
    - "mmrazor": by B, times tau^2 (its "batchmean" at 90c7af1); H W times "pixels".
    - "mmrazor-mean": by B K H W, times tau^2; 1 / K of "pixels".

    Ignored pixels count as all others do, as in every release.

    Args:
        num_classes: K, equal to the logits' channels.
        tau: Temperature.
        reduction: One of the above.
    """

    def __init__(self, num_classes: int, tau: float = 1.0, reduction: str = "pixels") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.num_classes = num_classes
        self.tau = tau
        self.reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar.

        Args:
            student: (B, K, H, W) logits.
            teacher: (B, K, H, W) logits; receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "logits", (self.num_classes, self.num_classes))
        with torch.autocast(student.device.type, enabled=False):
            ours = working_precision(student)
            theirs = teacher.detach().to(ours.dtype)
            if self.reduction == "skd":
                return F.cross_entropy(ours / self.tau, (theirs / self.tau).softmax(1), reduction="mean") * len(ours)
            return kl_divergence(ours, theirs, self.tau, dim=1) * self._factor(ours)

    def _factor(self, logits: Tensor) -> float:
        squared = self.tau**2
        return {
            "pixels": squared * self.num_classes / logits.numel(),
            "elements": 1.0 / logits.numel(),
            "mmrazor": squared / logits.shape[0],
            "mmrazor-mean": squared / logits.numel(),
        }[self.reduction]
