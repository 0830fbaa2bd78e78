"""PSD: the first part of double similarity distillation (DSD), on attention between layers."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses._attention import attention_map, normalize_map
from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import check_pair, working_precision


class PSDLoss(DistillationLoss):
    """Match how attention changes from one layer to another: pixel-wise similarity distillation.

    Each map becomes one of attention, the mean square over channels, scaled to length 1 in each image. The difference
    of two layers' attention, scaled to length 1 again, is compared with the teacher's, for each pair of layers.

    Source: Y. Feng, X. Sun, W. Diao, J. Li, X. Gao, "Double Similarity Distillation for Semantic Image Segmentation",
    IEEE TIP 30, 2021, in the form of CIRKD (`losses/dsd.py` at dab64db), on the auxiliary head's logits, the head's
    features and the logits. There all maps have one size. Where a network's have several (in a DeepLabV3+ student the
    logits have twice the auxiliary ones'), attention is averaged down to the smallest first: our choice. The value is
    at most 4 / (H W), so a weight belongs to one crop size. Where two layers have nearly equal attention, the gradient
    is very large, as in the source.

    Args:
        student_channels: Channels of each of the student's maps.
        teacher_channels: Channels of each of the teacher's maps.
    """

    default_stage = ["aux", "head", "logits"]

    def __init__(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        super().__init__(student_channels, teacher_channels)
        if len(student_channels) != len(teacher_channels) or len(student_channels) < 2:
            raise RmrkdError(
                f"psd compares the same 2 or more maps of both networks, got {len(student_channels)} of the student's "
                f"and {len(teacher_channels)} of the teacher's"
            )

    def forward(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], labels: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the mean over pairs of maps, B, H, W of squared differences.

        Args:
            student: Maps (B, Cs, H, W), each of its own channels, height and width.
            teacher: As many maps (B, Ct, H, W) of the student's heights and widths; they receive no gradient.
            labels: Not used.
        """
        count = len(self.channels[0])
        if not len(student) == len(teacher) == count:
            got = f"{len(student)} (student) and {len(teacher)} (teacher)"
            raise RmrkdError(f"psd is built for {count} maps, got {got}")
        for student_map, teacher_map, *channels in zip(student, teacher, *self.channels, strict=True):
            check_pair(student_map, teacher_map, self.map_name, tuple(channels))
        with torch.autocast(student[0].device.type, enabled=False):
            maps = [working_precision(each) for each in student]
            targets = [each.detach().to(like.dtype) for each, like in zip(teacher, maps, strict=True)]
            return (_residuals(maps) - _residuals(targets)).square().mean()


def _residuals(maps: list[Tensor]) -> Tensor:
    """Return differences of attention between each two maps, each scaled to length 1: (pairs * B, P)."""
    size = (min(each.shape[2] for each in maps), min(each.shape[3] for each in maps))
    attention = [normalize_map(F.adaptive_avg_pool2d(attention_map(each), size)) for each in maps]
    return F.normalize(torch.cat([later - earlier for earlier, later in combinations(attention, 2)]), dim=1)
