"""AttnFD: features that attention has refined."""

from __future__ import annotations

from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._cbam import CBAM, PlainCBAM

_SHORTEST = 1e-12


class AttnFDLoss(DistillationLoss):
    """Refine the maps of both networks by CBAM, scale each to length 1, and match them.

    Source: A. M. Mansourian et al., "Attention as Geometric Transformation: Revisiting Feature Distillation for
    Semantic Segmentation", WACV 2026 workshops, arXiv 2403.05451; AmirMansurian/AttnFD at f090bbe, `distiller.py`.
    The student's refined map passes a 1x1 convolution without bias and a batch norm. The length is that of the whole
    batch's tensor, so the loss of an image depends on the others.

    The released code never trains two parts: the gates over the channels of the student, which its optimizer is not
    given, and the teacher's attention. It loads the latter from the teacher's checkpoint, whose forward pass does not
    use it. The convolution and its batch norm it trains alone in the first epoch, in which the student does not learn,
    and keeps from then on; here they learn with the student. Its map of the last stage is that before the ReLU.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        teacher_attention: "random" weights that are not trained, as in the release, or "plain", without weights: the
            release's class has that form too, and does not use it.
        train_channel_gate: Whether the student's gate over channels is trained.
    """

    default_stage = 4

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        teacher_attention: Literal["random", "plain"] = "random",
        train_channel_gate: bool = False,
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(teacher_attention=teacher_attention)
        self.attention = CBAM(student_channels)
        self.attention.mlp.requires_grad_(train_channel_gate)
        conv = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
        nn.init.normal_(conv.weight, std=sqrt(2 / teacher_channels))
        self.align = nn.Sequential(conv, nn.BatchNorm2d(teacher_channels))
        random = teacher_attention == "random"
        self.teacher_attention = (CBAM(teacher_channels) if random else PlainCBAM()).requires_grad_(False)

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the sum of squared differences divided by B."""
        ours, theirs = self.align(self.attention(student)), self.teacher_attention(teacher)
        total: Tensor = (_of_length_one(ours) - _of_length_one(theirs)).square().sum()
        return total / len(student)


def _of_length_one(maps: Tensor) -> Tensor:
    """Divide maps by the length of the whole tensor. Zeros stay zeros; the release gives NaN."""
    # The length of lengths: on CPUs, torch's norm of millions of float32 numbers is wrong in the fourth digit.
    length: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(maps.flatten(2), dim=2))
    return maps / length.clamp_min(_SHORTEST)
