"""The decoupled channel-wise distillation of logits that RMRKD is trained with."""

from __future__ import annotations

from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import kl_divergence, one_hot_masks, resize_labels
from rmrkd_cli.presets.fields import NonNegative, Positive


class DKDLoss(DistillationLoss):
    """Match each class's logits as distributions over positions, inside the class's region and outside it.

    Channel k becomes a distribution over positions twice: with every position outside class k's region set to 0, and
    with every position inside set to 0. It is not the DKD of B. Zhao et al. (CVPR 2022), which splits the class
    probabilities of a sample.

    Source: released code Debrove/RMRKD at 1d0ed7a, `mmseg/distillation/losses/dkd.py:82-155`, the path its
    configs use. Zeros stay in the softmax, so the level of the logits matters.

    Args:
        num_classes: K, the channels of the logits.
        tau: Temperature.
        target_weight: Factor of the positions of the class.
        non_target_weight: Factor of all other positions.
    """

    default_stage = "logits"
    map_name = "logits"
    needs_labels = True
    search = {"tau": (1.0, 10.0)}

    def __init__(
        self,
        num_classes: int,
        tau: Positive = 4.0,
        target_weight: NonNegative = 4.0,
        non_target_weight: NonNegative = 4.0,
    ) -> None:
        super().__init__(num_classes, num_classes)
        self.num_classes = num_classes
        self.tau = tau
        self.target_weight = target_weight
        self.non_target_weight = non_target_weight

    def compute(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted sum of both divergences, times tau^2, divided by B and K.

        Labels are resized by nearest.
        """
        inside = one_hot_masks(resize_labels(labels, student, "nearest"), self.num_classes, student.dtype)
        outside = 1.0 - inside
        student, teacher = student.flatten(2), teacher.flatten(2)
        target = kl_divergence(inside * student, inside * teacher, self.tau, dim=2)
        non_target = kl_divergence(outside * student, outside * teacher, self.tau, dim=2)
        weighted = self.target_weight * target + self.non_target_weight * non_target
        return weighted * self.tau**2 / (inside.shape[0] * inside.shape[1])
