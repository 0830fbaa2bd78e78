"""MGD: masked generative distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import check_pair, make_align, working_precision
from rmrkd_cli.losses._masked_conv import convolve_kept
from rmrkd_cli.networks.winograd import convolve, is_worth_it
from rmrkd_cli.presets.fields import Fraction

_SPARSE_FROM = 0.5  # mask ratio from which skipping hidden positions is faster than a dense convolution


class MGDLoss(DistillationLoss):
    """Generate the teacher's whole map from the student's, masked at random positions.

    Source: Z. Yang, Z. Li, M. Shao, D. Shi, Z. Yuan, C. Yuan, "Masked Generative Distillation", ECCV 2022;
    released code yzd-v/MGD at 2c9da0b, `seg/mmseg/distillation/losses/mgd.py`. Its alpha (2e-5) is the weight
    and is not applied here. The value is a sum over channels and positions: it grows with the crop.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        mask_ratio: Probability (0..1) that a position is hidden; one draw serves all channels of a position.
    """

    default_stage = 4
    search = {"mask_ratio": (0.25, 0.9)}

    def __init__(self, student_channels: int, teacher_channels: int, mask_ratio: Fraction = 0.75) -> None:
        super().__init__(student_channels, teacher_channels)
        if not 0.0 <= mask_ratio <= 1.0:
            raise RmrkdError(f"mask_ratio must be in 0..1, got {mask_ratio}")
        self.mask_ratio = mask_ratio
        self.align = make_align(student_channels, teacher_channels)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
        )

    def forward(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None = None, keep_mask: Tensor | None = None
    ) -> Tensor:
        """Return squared differences summed over C, H, W, mean over B.

        Unlike the other losses it runs under autocast: with `--amp` the two convolutions are most of a step's time.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: Not used.
            keep_mask: (B, 1, H, W), 1 keeps a position and 0 hides it; drawn from torch's generator of the
                student's device when not given.
        """
        generated, target = self.generate(student, teacher, keep_mask)
        return (generated - target).square().sum() / student.shape[0]

    def generate(self, student: Tensor, teacher: Tensor, keep_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the generated map and the teacher's in the same precision, both (B, Ct, H, W); see `forward`."""
        check_pair(student, teacher, self.map_name, self.channels)
        if keep_mask is None:
            keep_mask = self.draw_mask(student)
        elif keep_mask.shape != (student.shape[0], 1, *student.shape[2:]):
            raise RmrkdError(f"keep_mask must be (B, 1, H, W) with the student's B, H, W, got {tuple(keep_mask.shape)}")
        generated = working_precision(self._generate(student, keep_mask))
        return generated, teacher.detach().to(generated.dtype)

    def _generate(self, student: Tensor, keep_mask: Tensor) -> Tensor:
        """Return the generated map; on CPUs in float32, hidden positions are not computed."""
        mixed = torch.is_autocast_enabled(student.device.type)
        if not mixed:
            student = working_precision(student, self.generation)
        sparse = student.device.type == "cpu" and student.dtype == torch.float32 and self.mask_ratio >= _SPARSE_FROM
        if not sparse or mixed:
            generated: Tensor = self.generation(self.align(student) * keep_mask.to(student.dtype))
            return generated
        keep = keep_mask[:, 0] > 0
        rows = student.permute(0, 2, 3, 1)[keep]
        if isinstance(self.align, nn.Conv2d):
            rows = F.linear(rows, self.align.weight.flatten(1), self.align.bias)
        first, relu, second = self.generation
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        hidden = relu(convolve_kept(rows, keep, first))
        return convolve(hidden, second) if is_worth_it(second) else second(hidden)

    def draw_mask(self, like: Tensor) -> Tensor:
        """Return a fresh (B, 1, H, W) mask on the device of `like`."""
        shape = (like.shape[0], 1, *like.shape[2:])
        return (torch.rand(shape, device=like.device) < 1.0 - self.mask_ratio).to(like.dtype)
