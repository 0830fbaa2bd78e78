"""PKD: Pearson's correlation of each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rmrkd_cli.losses._align import align_layer
from rmrkd_cli.losses._functional import check_pair, working_precision

_GUARD = 1e-6  # the source adds it to each standard deviation
_ALL_BUT_CHANNELS = (0, 2, 3)


class PKDLoss(nn.Module):
    """Each channel of the student correlates with the teacher's over the positions of the batch.

    Source: W. Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation
    Coefficient", NeurIPS 2022; mmrazor `pkd_loss.py` at 90c7af1. Mean and standard deviation are those of this
    process's images. It is made for detectors of equal channels: to align unequal ones by a 1x1 convolution is our
    choice, and no source gives a weight for segmentation. The source's 1e-6 beside each standard deviation is kept, so
    a channel of the student that does not vary gets its gradient multiplied by 1e6: finite, and large.

    Args:
        student_channels: Channels of the student's map; aligned by a 1x1 convolution when they differ.
        teacher_channels: Channels of the teacher's map.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)
        self.align = align_layer(student_channels, teacher_channels)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar: half the mean square of the differences of the standardised maps.

        That is (1 - the mean over channels of the correlation) * (n - 1) / n for n = B H W.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            ours = self.align(working_precision(student, self.align))
            value: Tensor = _StandardisedDifference.apply(ours, teacher.detach().to(ours.dtype))
            return value


class _StandardisedDifference(torch.autograd.Function):
    """Keeps one map for the backward pass, the gradient, which is made in place of what the value needs."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        ours, deviation = _standardised(student)
        difference = _standardised(teacher)[0].neg_().add_(ours)
        value = difference.square().mean() / 2
        # a change of x also moves the deviation: for n positions, along (x - mean) / ((n - 1) deviation)
        along = (difference * ours).sum(_ALL_BUT_CHANNELS, keepdim=True) * (deviation + _GUARD)
        along = (along / (_freedom(student) * deviation)).masked_fill_(deviation == 0, 0)
        gradient = difference.sub_(ours.mul_(along)).div_((deviation + _GUARD) * student.numel())
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


def _standardised(maps: Tensor) -> tuple[Tensor, Tensor]:
    """A map of mean 0 and nearly deviation 1 in each channel, and the unbiased deviation (1, C, 1, 1) it had."""
    centred = maps - maps.mean(_ALL_BUT_CHANNELS, keepdim=True)
    deviation = (centred.square().sum(_ALL_BUT_CHANNELS, keepdim=True) / _freedom(maps)).sqrt_()
    return centred.div_(deviation + _GUARD), deviation


def _freedom(maps: Tensor) -> int:
    """n - 1; one position alone has no deviation."""
    return max(maps.numel() // maps.shape[1] - 1, 1)
