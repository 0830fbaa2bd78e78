"""SKD: structured knowledge distillation, its pair-wise loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses._functional import check_choice, check_pair, working_precision
from rmrkd_cli.losses._relations import SHORTEST, Compared, blocks, rows_of, through_lengths, unit_rows, with_gradient

NODES = ("2x2", "half")
_ADDED = 1e-8  # to lengths, in the official code


class SKDLoss(nn.Module):
    """The cosines between all pairs of nodes of a map follow the teacher's; a node is what max-pooling leaves.

    The adversarial part of the method is a loss of its own, `adversarial`.

    Source: Y. Liu, K. Chen, C. Liu, Z. Qin, Z. Luo, J. Wang, "Structured Knowledge Distillation for Semantic
    Segmentation", CVPR 2019; CIRKD `skd.py:20-40` at dab64db (the default), and the official code,
    `CriterionPairWiseforWholeFeatAfterPool` of structure_knowledge_distillation at 3914ec7. The two compare graphs of
    about a thousand and of four to nine nodes: a weight belongs to one of them. Positions of no class count as others.

    Args:
        student_channels: Channels of the student's map; each network is compared in its own.
        teacher_channels: Channels of the teacher's map.
        nodes: "2x2" pools two by two positions, as CIRKD does; "half" half the map, as the official code does.
        detach_norm: Lengths are constants to the gradient, and 1e-8 longer, as in the official code.
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, nodes: str = "2x2", detach_norm: bool = False
    ) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)
        check_choice("nodes", nodes, NODES)
        self.nodes = nodes
        self.detach_norm = detach_norm

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar: mean over images and pairs of nodes of squared differences of cosines.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            ours = rows_of(working_precision(self._pool(student)))
            theirs = rows_of(self._pool(teacher.detach()).to(ours.dtype))
            return with_gradient(self._compare, ours, theirs)

    def _pool(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        kernel = (2, 2) if self.nodes == "2x2" else (max(1, height // 2), max(1, width // 2))
        return F.max_pool2d(maps, kernel, kernel, ceil_mode=True)

    def _compare(self, student: Tensor, teacher: Tensor, wanted: bool) -> Compared:
        """Of nodes (B, N, C): the loss, and its gradient with respect to the student's where it is wanted.

        Both matrices are symmetric: a block of rows begins at its own diagonal, and counts twice beyond it.
        """
        (ours, lengths), (theirs, _) = self._unit(student), self._unit(teacher)
        images, nodes, _ = ours.shape
        gradient = torch.zeros_like(ours) if wanted else None
        total = ours.new_zeros(())
        for start, stop in blocks(nodes, images * nodes, ours.device):
            rows, rest = ours[:, start:stop], ours[:, start:]
            apart = rows @ rest.mT
            apart.baddbmm_(theirs[:, start:stop], theirs[:, start:].mT, alpha=-1)
            own, beyond = apart[:, :, : stop - start], apart[:, :, stop - start :]
            total += own.square().sum() + 2 * beyond.square().sum()
            if gradient is not None:
                gradient[:, start:stop] += apart @ rest
                gradient[:, stop:] += beyond.mT @ rows
        scale = 1 / (images * nodes**2)
        if gradient is None:
            return total * scale, None
        return total * scale, self._through_unit(gradient.mul_(4 * scale), ours, lengths)

    def _unit(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not self.detach_norm:
            return unit_rows(rows)
        lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return rows / (lengths + _ADDED), lengths

    def _through_unit(self, gradient: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
        if not self.detach_norm:
            return through_lengths(gradient, units, lengths)
        return gradient.div_(lengths + _ADDED).masked_fill_(lengths <= SHORTEST, 0)
