"""KD: the class probabilities of every pixel."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import kl_divergence
from rmrkd_cli.presets.fields import Positive


class KDLoss(DistillationLoss):
    """Match the student's distribution over classes at each position to the teacher's.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", NIPS 2014 workshop; for
    each pixel as in Y. Liu et al., CVPR 2019. Releases divide the sum of KL(teacher || student) differently, so a
    weight means nothing without its reduction:

    - "pixels": by the B H W positions, times tau^2; the canonical form (CIRKD, `losses/kd.py:16-23` at dab64db).
    - "elements": by B K H W, without tau^2 (IFVD at 950a7a5, TorchDistiller at c2caaca); 1 / K of "pixels" at tau 1.
    - "skd": by H W and not by B, without tau^2, as a cross-entropy, which adds the teacher's entropy as a constant
      (SKD, `criterion.py` at 3914ec7, which has tau 1); B times "pixels" plus that constant.
    - "mmrazor": by B, times tau^2 (its "batchmean" at 90c7af1); H W times "pixels".
    - "mmrazor-mean": by B K H W, times tau^2; 1 / K of "pixels".

    Ignored pixels count like all others, as in every release.

    Args:
        num_classes: K, the channels of the logits.
        tau: Temperature.
        reduction: One of the above.
    """

    default_stage = "logits"
    map_name = "logits"
    search = {"tau": (0.5, 10.0)}

    def __init__(
        self,
        num_classes: int,
        tau: Positive = 1.0,
        reduction: Literal["pixels", "elements", "skd", "mmrazor", "mmrazor-mean"] = "pixels",
    ) -> None:
        super().__init__(num_classes, num_classes)
        self.check_choices(reduction=reduction)
        self.num_classes = num_classes
        self.tau = tau
        self.reduction = reduction

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the divergence over the classes, reduced."""
        if self.reduction == "skd":
            target = (teacher / self.tau).softmax(1)
            return F.cross_entropy(student / self.tau, target, reduction="mean") * len(student)
        return kl_divergence(student, teacher, self.tau, dim=1) * self._factor(student)

    def _factor(self, logits: Tensor) -> float:
        squared = self.tau**2
        return {
            "pixels": squared * self.num_classes / logits.numel(),
            "elements": 1.0 / logits.numel(),
            "mmrazor": squared / logits.shape[0],
            "mmrazor-mean": squared / logits.numel(),
        }[self.reduction]
