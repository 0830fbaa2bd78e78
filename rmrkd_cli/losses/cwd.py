"""CWD: channel-wise distillation."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import kl_divergence
from rmrkd_cli.presets.fields import Positive


class CWDLoss(DistillationLoss):
    """Match each channel as a distribution over an image's positions.

    Source: C. Shu, Y. Liu, J. Gao, Z. Yan, C. Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV
    2021; TorchDistiller at c2caaca, CIRKD `losses/cwd.py` at dab64db. On logits nothing is learned. On feature maps a
    1x1 convolution without bias brings the student to the teacher's channels.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map; the same for logits.
        on_logits: Whether the maps are logits.
        tau: Temperature.
        align: For feature maps. "conv": a convolution where channels differ, as in CIRKD. "conv-always": also where
            they are equal. "conv-bn-relu": always, with batch norm (over this process's images) and ReLU behind it, as
            in TorchDistiller.
        divide_by: Divide the sum by the channels of the "teacher", or of the "student" as CIRKD does, which reads
            them before its convolution (`cwd.py:60`); that value is Ct / Cs times larger.
    """

    default_stage = "logits"
    map_name = "maps"
    search = {"tau": (1.0, 10.0)}

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        on_logits: bool = True,
        tau: Positive = 4.0,
        align: Literal["conv", "conv-always", "conv-bn-relu"] = "conv",
        divide_by: Literal["teacher", "student"] = "teacher",
    ) -> None:
        super().__init__(student_channels, student_channels if on_logits else teacher_channels)
        self.check_choices(align=align, divide_by=divide_by)
        self.align: nn.Module = nn.Identity() if on_logits else _make_align(align, student_channels, teacher_channels)
        self.tau = tau
        self.divide_by = divide_by

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return tau^2 times the divergences of all channels, divided by B and the channels."""
        channels = teacher.shape[1] if self.divide_by == "teacher" else student.shape[1]
        divergence = kl_divergence(self.align(student).flatten(2), teacher.flatten(2), self.tau, dim=2)
        return divergence * self.tau**2 / (len(student) * channels)


def _make_align(kind: str, student_channels: int, teacher_channels: int) -> nn.Module:
    if kind == "conv" and student_channels == teacher_channels:
        return nn.Identity()
    convolution = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
    if kind != "conv-bn-relu":
        return convolution
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels), nn.ReLU())
