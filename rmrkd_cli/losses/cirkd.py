"""CIRKD: cross-image relational distillation, its part between the pixels of a mini-batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._relations import (
    ValueAndGradient,
    image_relations,
    normalize_rows,
    normalize_rows_backward,
    to_rows,
    with_gradient,
)
from rmrkd_cli.presets.fields import OneOrTwo, Positive


class CIRKDLoss(DistillationLoss):
    """Match each position's cosines with all positions of an image, as a distribution.

    This is done for every ordered pair of images of the batch, including an image with itself.

    Source: C. Yang, H. Zhou, Z. An, X. Jiang, Y. Xu, Q. Zhang, "Cross-Image Relational Knowledge Distillation for
    Semantic Segmentation", CVPR 2022, arXiv 2204.06986; CIRKD `cirkd_mini_batch.py:57-88` at dab64db. Images of other
    processes are not compared (the release has that commented out). Positions without a class count. No factor tau^2.

    Args:
        student_channels: Channels of the student's map; each network is compared in its own.
        teacher_channels: Channels of the teacher's map.
        tau: Temperature of the cosines.
        pool: 2 averages two by two positions into one first, for a sixteenth of the work; the release's flag.
    """

    search = {"tau": (0.03, 1.0)}

    def __init__(self, student_channels: int, teacher_channels: int, tau: Positive = 0.1, pool: OneOrTwo = 1) -> None:
        super().__init__(student_channels, teacher_channels)
        self.tau = tau
        self.pool = pool

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the mean over pairs of images and over positions of the divergence."""
        return with_gradient(self._compare, to_rows(self._pool(student)), to_rows(self._pool(teacher)))

    def _pool(self, maps: Tensor) -> Tensor:
        return maps if self.pool == 1 else F.avg_pool2d(maps, self.pool, ceil_mode=True)

    def _compare(self, student: Tensor, teacher: Tensor, needs_gradient: bool) -> ValueAndGradient:
        """Return the loss of positions (B, P, C), and its gradient for the student's where it is needed."""
        shape = student.shape
        (student, norms), (teacher, _) = (normalize_rows(rows.flatten(0, 1)) for rows in (student, teacher))
        gradient = torch.zeros_like(student) if needs_gradient else None
        value = image_relations(student, teacher, shape[0], self.tau, gradient)
        if gradient is None:
            return value, None
        return value, normalize_rows_backward(gradient, student, norms).view(shape)
