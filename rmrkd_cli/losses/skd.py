"""SKD: structured knowledge distillation, its pair-wise loss."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._relations import (
    MIN_NORM,
    ValueAndGradient,
    normalize_rows,
    normalize_rows_backward,
    row_blocks,
    to_rows,
    with_gradient,
)

_EPSILON = 1e-8  # the official code adds it to lengths


class SKDLoss(DistillationLoss):
    """Match the cosines between all pairs of nodes of a map; a node is a max-pooled window.

    The adversarial part of the method is the separate loss `adversarial`.

    Source: Y. Liu, K. Chen, C. Liu, Z. Qin, Z. Luo, J. Wang, "Structured Knowledge Distillation for Semantic
    Segmentation", CVPR 2019; CIRKD `skd.py:20-40` at dab64db (the default), and the official code,
    `CriterionPairWiseforWholeFeatAfterPool` of structure_knowledge_distillation at 3914ec7. The two compare graphs of
    about a thousand and of four to nine nodes: a weight belongs to one of them. Positions without a class count.

    Args:
        student_channels: Channels of the student's map; each network is compared in its own.
        teacher_channels: Channels of the teacher's map.
        nodes: "2x2" pools two by two positions, as CIRKD does; "half" half the map, as the official code does.
        detach_norm: Treat lengths as constants in the gradient and add 1e-8 to them, as in the official code.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        nodes: Literal["2x2", "half"] = "2x2",
        detach_norm: bool = False,
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(nodes=nodes)
        self.nodes = nodes
        self.detach_norm = detach_norm

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the mean over images and pairs of nodes of squared differences of cosines."""
        return with_gradient(self._compare, to_rows(self._pool(student)), to_rows(self._pool(teacher)))

    def _pool(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        kernel = (2, 2) if self.nodes == "2x2" else (max(1, height // 2), max(1, width // 2))
        return F.max_pool2d(maps, kernel, kernel, ceil_mode=True)

    def _compare(self, student: Tensor, teacher: Tensor, needs_gradient: bool) -> ValueAndGradient:
        """Return the loss of nodes (B, N, C), and its gradient for the student's where it is needed.

        Both matrices are symmetric: a block of rows begins at its own diagonal and counts twice beyond it.
        """
        (student, norms), (teacher, _) = self._normalize(student), self._normalize(teacher)
        images, nodes, _ = student.shape
        gradient = torch.zeros_like(student) if needs_gradient else None
        total = student.new_zeros(())
        for start, stop in row_blocks(nodes, images * nodes, student.device):
            rows, rest = student[:, start:stop], student[:, start:]
            difference = rows @ rest.mT
            difference.baddbmm_(teacher[:, start:stop], teacher[:, start:].mT, alpha=-1)
            diagonal, beyond = difference[:, :, : stop - start], difference[:, :, stop - start :]
            total += diagonal.square().sum() + 2 * beyond.square().sum()
            if gradient is not None:
                gradient[:, start:stop] += difference @ rest
                gradient[:, stop:] += beyond.mT @ rows
        scale = 1 / (images * nodes**2)
        if gradient is None:
            return total * scale, None
        return total * scale, self._normalize_backward(gradient.mul_(4 * scale), student, norms)

    def _normalize(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not self.detach_norm:
            return normalize_rows(rows)
        norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return rows / (norms + _EPSILON), norms

    def _normalize_backward(self, gradient: Tensor, units: Tensor, norms: Tensor) -> Tensor:
        if not self.detach_norm:
            return normalize_rows_backward(gradient, units, norms)
        return gradient.div_(norms + _EPSILON).masked_fill_(norms <= MIN_NORM, 0)
