"""AT: attention transfer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmrkd_cli.losses._attention import energy, unit
from rmrkd_cli.losses._functional import check_pair, working_precision


class ATLoss(nn.Module):
    """The student's map of attention follows the teacher's: the mean square over channels, of length 1 in each image.

    Source: S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", ICLR 2017; CIRKD `losses/at.py:14-19` at
    dab64db, with the head's features alone. Each network stays in its own channels, and nothing is learned. The value
    is a mean over positions of shares of 1 and so at most 2 / (H W): its weight belongs to one crop.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar: mean over B, H, W of squared differences.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            ours = working_precision(student)
            theirs = teacher.detach().to(ours.dtype)
            return (unit(energy(ours)) - unit(energy(theirs))).square().mean()
