"""FitNet: regression of the teacher's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses._functional import check_pair, working_precision


class FitNetLoss(nn.Module):
    """A 1x1 convolution of the student's features must give the teacher's.

    Source: A. Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, as CIRKD trains it (`losses/fitnet.py`
    at dab64db): on the head's features and together with the other losses, where the paper trains a middle layer
    first. The convolution has no bias and is there where channels are equal too, so the loss of equal networks is not
    0. It grows with the square of the teacher's features.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)
        self.align = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar: mean over B, C, H, W of squared differences.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            ours = self.align(working_precision(student, self.align))
            return F.mse_loss(ours, teacher.detach().to(ours.dtype))
