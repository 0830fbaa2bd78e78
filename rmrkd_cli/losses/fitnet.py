"""FitNet: regression of the teacher's features."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses._base import DistillationLoss


class FitNetLoss(DistillationLoss):
    """Predict the teacher's features from the student's by a 1x1 convolution.

    Source: A. Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, as CIRKD trains it (`losses/fitnet.py`
    at dab64db): on the head's features and together with the other losses, where the paper trains a middle layer
    first. The convolution has no bias and is used for equal channels too, so the loss of equal networks is not 0. The
    value grows with the square of the teacher's features.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__(student_channels, teacher_channels)
        self.align = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the mean over B, C, H, W of squared differences."""
        return F.mse_loss(self.align(student), teacher)
