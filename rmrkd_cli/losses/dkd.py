"""The decoupled channel-wise distillation of logits that RMRKD is trained with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmrkd_cli.losses._functional import check_pair, kl_divergence, one_hot_masks, resize_labels, working_precision


class DKDLoss(nn.Module):
    """Channel-wise distillation of the logits, split into target and non-target positions of each class.

    Channel k's logits become a distribution over positions twice: with every position outside class k's region
    set to 0, and with every position inside set to 0. It is not the DKD of B. Zhao et al. (CVPR 2022), which
    splits the class probabilities of a sample.

    Source: released code Debrove/RMRKD at 1d0ed7a, `mmseg/distillation/losses/dkd.py:82-155`, the path its
    configs use. Zeros stay in the softmax, so the level of the logits matters.

    Args:
        num_classes: K, equal to the logits' channels.
        tau: Temperature.
        target_weight: Weight of the positions of the class.
        non_target_weight: Weight of all other positions.
    """

    def __init__(
        self, num_classes: int, tau: float = 4.0, target_weight: float = 4.0, non_target_weight: float = 4.0
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.tau = tau
        self.target_weight = target_weight
        self.non_target_weight = non_target_weight

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, with the two inner weights applied.

        Args:
            student: (B, K, H, W) logits.
            teacher: (B, K, H, W) logits; receives no gradient.
            labels: (B, 1, Hi, Wi) integers at image resolution; resized by nearest.
        """
        check_pair(student, teacher, "logits", (self.num_classes, self.num_classes))
        with torch.autocast(student.device.type, enabled=False):
            ours = working_precision(student).flatten(2)
            theirs = teacher.detach().to(ours.dtype).flatten(2)
            masks = one_hot_masks(resize_labels(labels, student, "nearest"), self.num_classes, ours.dtype)
            return self._loss(ours, theirs, masks)

    def _loss(self, student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
        others = 1.0 - masks
        target = kl_divergence(masks * student, masks * teacher, self.tau, dim=2)
        non_target = kl_divergence(others * student, others * teacher, self.tau, dim=2)
        weighted = self.target_weight * target + self.non_target_weight * non_target
        return weighted * self.tau**2 / (masks.shape[0] * masks.shape[1])
