"""PKD: Pearson's correlation of each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import make_align

_EPSILON = 1e-6  # the source adds it to each standard deviation
_ALL_BUT_CHANNELS = (0, 2, 3)


class PKDLoss(DistillationLoss):
    """Correlate each channel of the student with the teacher's over the positions of the batch.

    Source: W. Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation
    Coefficient", NeurIPS 2022; mmrazor `pkd_loss.py` at 90c7af1. Mean and standard deviation are taken over this
    process's images. The method is for detectors with equal channels: aligning unequal ones by a 1x1 convolution is
    our choice, and no source gives a weight for segmentation. The source's 1e-6 beside each standard deviation is kept,
    so the gradient of a student channel that does not vary is multiplied by 1e6: finite, and large.

    Args:
        student_channels: Channels of the student's map; aligned by a 1x1 convolution when they differ.
        teacher_channels: Channels of the teacher's map.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__(student_channels, teacher_channels)
        self.align = make_align(student_channels, teacher_channels)

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return half the mean square of the differences of the standardised maps.

        That is (1 - the mean over channels of the correlation) * (n - 1) / n for n = B H W.
        """
        value: Tensor = _StandardisedDifference.apply(self.align(student), teacher)
        return value


class _StandardisedDifference(torch.autograd.Function):
    """Saves one map, the gradient, which reuses the memory of the value's."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        standardised, deviation = _standardise(student)
        difference = _standardise(teacher)[0].neg_().add_(standardised)
        value = difference.square().mean() / 2
        # a change of x also changes the deviation: for n positions, along (x - mean) / ((n - 1) deviation)
        along = (difference * standardised).sum(_ALL_BUT_CHANNELS, keepdim=True) * (deviation + _EPSILON)
        along = (along / (_degrees_of_freedom(student) * deviation)).masked_fill_(deviation == 0, 0)
        gradient = difference.sub_(standardised.mul_(along)).div_((deviation + _EPSILON) * student.numel())
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


def _standardise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return a map of mean 0 and nearly deviation 1 in each channel, and its former unbiased deviation (1, C, 1, 1)."""
    centred = maps - maps.mean(_ALL_BUT_CHANNELS, keepdim=True)
    deviation = (centred.square().sum(_ALL_BUT_CHANNELS, keepdim=True) / _degrees_of_freedom(maps)).sqrt_()
    return centred.div_(deviation + _EPSILON), deviation


def _degrees_of_freedom(maps: Tensor) -> int:
    """Return n - 1, and 1 for a single position, whose deviation is 0."""
    return max(maps.numel() // maps.shape[1] - 1, 1)
