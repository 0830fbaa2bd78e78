"""AT: attention transfer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rmrkd_cli.losses._attention import attention_map, normalize_map
from rmrkd_cli.losses._base import DistillationLoss


class ATLoss(DistillationLoss):
    """Match the attention maps: the mean square over channels, scaled to length 1 in each image.

    Source: S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", ICLR 2017; CIRKD `losses/at.py:14-19` at
    dab64db, with the head's features alone. Each network keeps its own channels, and nothing is learned.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        mode: "code" as in the authors' code and CIRKD: the mean square of the differences, at most 2 / (H W), so a
            weight belongs to one crop size. "paper" as in equation 2 of the paper: the length of each image's
            difference, at most sqrt(2); torchdistill's `ATLoss(mode="paper")`.
    """

    def __init__(self, student_channels: int, teacher_channels: int, mode: Literal["code", "paper"] = "code") -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(mode=mode)
        self.mode = mode

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the mean over B, H, W of squared differences; in mode "paper" the mean over B of their lengths."""
        difference = normalize_map(attention_map(student)) - normalize_map(attention_map(teacher))
        if self.mode == "code":
            return difference.square().mean()
        # not the square root of a sum: its derivative at 0 is infinite, that of vector_norm is 0
        lengths: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return lengths.mean()
