"""CIRKD: cross-image relational distillation, its part between the pixels of a mini-batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses._functional import check_pair, divergence, working_precision
from rmrkd_cli.losses._relations import Compared, blocks, rows_of, through_lengths, unit_rows, with_gradient


class CIRKDLoss(nn.Module):
    """Each position's cosines with all positions of an image, as a distribution, follow the teacher's.

    It is done for every ordered pair of images of the batch, an image with itself among them.

    Source: C. Yang, H. Zhou, Z. An, X. Jiang, Y. Xu, Q. Zhang, "Cross-Image Relational Knowledge Distillation for
    Semantic Segmentation", CVPR 2022, arXiv 2204.06986; CIRKD `cirkd_mini_batch.py:57-88` at dab64db. Images of other
    processes are not compared with (the release has that commented out). Positions of no class count as others. No
    factor tau^2.

    Args:
        student_channels: Channels of the student's map; each network is compared in its own.
        teacher_channels: Channels of the teacher's map.
        tau: Temperature of the cosines.
        pool: 2 averages two by two positions into one before, for a sixteenth of the work; the release's flag.
    """

    def __init__(self, student_channels: int, teacher_channels: int, tau: float = 0.1, pool: int = 1) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)
        self.tau = tau
        self.pool = pool

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar: mean over pairs of images and over positions of the divergence.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            ours = rows_of(self._pool(working_precision(student)))
            theirs = rows_of(self._pool(teacher.detach().to(ours.dtype)))
            return with_gradient(self._compare, ours, theirs)

    def _pool(self, maps: Tensor) -> Tensor:
        return maps if self.pool == 1 else F.avg_pool2d(maps, self.pool, ceil_mode=True)

    def _compare(self, student: Tensor, teacher: Tensor, wanted: bool) -> Compared:
        """Of positions (B, P, C): the loss, and its gradient with respect to the student's where it is wanted."""
        images, positions, _ = student.shape
        (ours, lengths), (theirs, _) = unit_rows(student.flatten(0, 1)), unit_rows(teacher.flatten(0, 1))
        count = images * positions
        gradient = torch.zeros_like(ours) if wanted else None
        total = ours.new_zeros(())
        for start, stop in blocks(count, count, ours.device):
            shape = (stop - start, images, positions)
            logits, targets = (
                (units[start:stop] / self.tau @ units.mT).view(shape) for units in (ours, theirs)
            )  # rows of every image with every image
            part, slope = divergence(logits, targets, dim=2)
            total += part
            if gradient is not None:
                slope = slope.flatten(1)
                gradient[start:stop].addmm_(slope, ours)
                gradient.addmm_(slope.mT, ours[start:stop])
        scale = 1 / (images**2 * positions)
        if gradient is None:
            return total * scale, None
        gradient = through_lengths(gradient.mul_(scale / self.tau), ours, lengths)
        return total * scale, gradient.view_as(student)
