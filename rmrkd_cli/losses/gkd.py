"""GKD: the student's features query a foundation model's."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import attend
from rmrkd_cli.presets.fields import PositiveCount


class GKDLoss(DistillationLoss):
    """Mix the student's positions by their attention to the teacher's, and regress the teacher's map.

    Source: C. Lv et al., "Generalizable Knowledge Distillation from Vision Foundation Models for Semantic
    Segmentation", CVPR 2026, arXiv 2603.02554; Younger-hua/GKD at da68631,
    `general_distillation/distillation_models_dino.py`. Queries and values are linear layers of the normalized student,
    keys are the teacher's tokens. Attention has one head, and its products are not divided by the root of C.

    The release's term has the class token as one more position, and it adds a term of the class token alone and one of
    hidden patches. These need a ViT as the student.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        pool: Positions a side that are averaged into one first. Time grows with the square of the positions.
    """

    default_stage = 4

    def __init__(self, student_channels: int, teacher_channels: int, pool: PositiveCount = 1) -> None:
        super().__init__(student_channels, teacher_channels)
        self.pool = pool
        self.query = _projection(student_channels, teacher_channels)
        self.value = _projection(student_channels, teacher_channels)

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the mean over B, C, H, W of squared differences."""
        ours, theirs = self._tokens(student), self._tokens(teacher)
        query, key, value = (rows.unsqueeze(1) for rows in (self.query(ours), theirs, self.value(ours)))  # one head
        return F.mse_loss(attend(query, key, value, scale=1.0).squeeze(1), theirs)

    def _tokens(self, maps: Tensor) -> Tensor:
        """Return the positions (B, H W, C) of a map; windows at the border may be smaller."""
        pooled = F.avg_pool2d(maps, self.pool, ceil_mode=True) if self.pool > 1 else maps
        return pooled.flatten(2).transpose(1, 2)


def _projection(student_channels: int, teacher_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(student_channels), nn.Linear(student_channels, teacher_channels))
