"""CWD: channel-wise distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmrkd_cli.losses._functional import check_choice, check_pair, kl_divergence, working_precision

ALIGNS = ("conv", "conv-bn-relu")
DIVISORS = ("teacher", "student")


class CWDLoss(nn.Module):
    """Each channel as a distribution over an image's positions follows the teacher's.

    Source: C. Shu, Y. Liu, J. Gao, Z. Yan, C. Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV
    2021; TorchDistiller at c2caaca, CIRKD `losses/cwd.py` at dab64db. On logits nothing is learned. On feature maps a
    1x1 convolution without bias brings the student to the teacher's channels, also where they are equal already.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map; of logits the same.
        on_logits: Whether the maps are logits.
        tau: Temperature.
        align: Of feature maps: "conv" as in CIRKD, or "conv-bn-relu" as in TorchDistiller, where batch norm (of this
            process's images) and ReLU follow.
        divide_by: Whose channels the sum is divided by: the "teacher"'s, which are those compared, or the "student"'s,
            which CIRKD reads before its convolution (`cwd.py:60`): its value is Ct / Cs times larger.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        on_logits: bool = True,
        tau: float = 4.0,
        align: str = "conv",
        divide_by: str = "teacher",
    ) -> None:
        super().__init__()
        check_choice("align", align, ALIGNS)
        check_choice("divide_by", divide_by, DIVISORS)
        self.channels = (student_channels, student_channels if on_logits else teacher_channels)
        self.align: nn.Module = nn.Identity() if on_logits else _aligner(align, student_channels, teacher_channels)
        self.tau = tau
        self.divide_by = divide_by

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar: tau^2 times the divergences of all channels, divided by B and the channels.

        Args:
            student: (B, Cs, H, W) logits or features.
            teacher: (B, Ct, H, W); receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "maps", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            ours = self.align(working_precision(student, self.align)).flatten(2)
            theirs = teacher.detach().to(ours.dtype).flatten(2)
            channels = teacher.shape[1] if self.divide_by == "teacher" else student.shape[1]
            return kl_divergence(ours, theirs, self.tau, dim=2) * self.tau**2 / (len(student) * channels)


def _aligner(kind: str, student_channels: int, teacher_channels: int) -> nn.Module:
    convolution = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
    if kind == "conv":
        return convolution
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels), nn.ReLU())
