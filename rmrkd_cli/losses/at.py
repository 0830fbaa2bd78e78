"""AT: attention transfer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rmrkd_cli.losses._attention import attention_map, normalize_map
from rmrkd_cli.losses._base import DistillationLoss


class ATLoss(DistillationLoss):
    """Match the attention maps: the mean square over channels, scaled to length 1 in each image.

    Source: S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", ICLR 2017; CIRKD `losses/at.py:14-19` at
    dab64db, with the head's features alone. Each network keeps its own channels, and nothing is learned. The value is
    at most 2 / (H W), so a weight belongs to one crop size.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
    """

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the mean over B, H, W of squared differences of attention."""
        return (normalize_map(attention_map(student)) - normalize_map(attention_map(teacher))).square().mean()
