"""DIST: correlations of the class probabilities, of each pixel and of each class."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.presets.fields import NonNegative, Positive

_EPSILON = 1e-8  # the source adds it to the product of two lengths
_INTRA_DIMS = {"positions": (0, 2, 3), "images": (0,)}


class DISTLoss(DistillationLoss):
    """Correlate the student's class probabilities with the teacher's, over classes and over pixels.

    Source: T. Huang, S. You, F. Wang, C. Qian, C. Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022;
    hunto/DIST_KD at 6d93ca0, `segmentation/losses/dist_kd.py`. The temperature and its tau^2 come from mmrazor
    (`dist_loss.py` at 90c7af1); the source has none. The source's 1e-8 in each denominator is kept. It makes
    probabilities of a class that hardly vary (a standard deviation of 1e-6 over 8,192 pixels) correlate with
    themselves by only 0.45. So absent classes add a constant without gradient, and the loss of equal networks is only
    nearly 0. The range is 0 to 2 (beta + gamma) tau^2. Ignored pixels count.

    Args:
        num_classes: K, the channels of the logits.
        tau: Temperature.
        beta: Factor of the correlations over the classes of a pixel.
        gamma: Factor of the correlations over the pixels of a class.
        intra_over: Which pixels the second correlations run over. "positions": all of the batch. "images": the batch's
            pixels at one position, as mmrazor's code does for maps; a constant for a batch of one.
    """

    default_stage = "logits"
    map_name = "logits"
    search = {"tau": (0.5, 4.0)}

    def __init__(
        self,
        num_classes: int,
        tau: Positive = 1.0,
        beta: NonNegative = 1.0,
        gamma: NonNegative = 1.0,
        intra_over: Literal["positions", "images"] = "positions",
    ) -> None:
        super().__init__(num_classes, num_classes)
        self.check_choices(intra_over=intra_over)
        self.num_classes = num_classes
        self.tau = tau
        self.beta = beta
        self.gamma = gamma
        self.intra_over = intra_over

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return tau^2 times the weighted sum of 1 - the two mean correlations."""
        student, teacher = ((logits / self.tau).softmax(1) for logits in (student, teacher))
        inter = 1 - mean_correlation(student, teacher, (1,))
        intra = 1 - mean_correlation(student, teacher, _INTRA_DIMS[self.intra_over])
        return self.tau**2 * (self.beta * inter + self.gamma * intra)


def mean_correlation(student: Tensor, teacher: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the mean of Pearson's correlations of two maps over `dims`; the teacher receives no gradient."""
    mean: Tensor = _MeanCorrelation.apply(student, teacher, dims)
    return mean


class _MeanCorrelation(torch.autograd.Function):
    """Saves one map, the gradient: for centred a and b, (b - r |b| / |a| a) / (|a| |b| + epsilon).

    A vector of length 0 gets no gradient through its length.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, dims: tuple[int, ...]) -> Tensor:
        a = student - student.mean(dims, keepdim=True)
        b = teacher - teacher.mean(dims, keepdim=True)
        norm_a, norm_b = (x.square().sum(dims, keepdim=True).sqrt_() for x in (a, b))
        denominator = norm_a * norm_b + _EPSILON
        correlation = (a * b).sum(dims, keepdim=True).div_(denominator)
        along = (correlation * norm_b / norm_a).masked_fill_(norm_a == 0, 0)
        gradient = b.sub_(a.mul_(along)).div_(denominator * correlation.numel())
        # Shifting a vector changes nothing. A constant teacher's b is its rounding, whose quotient is not small.
        ctx.save_for_backward(gradient.sub_(gradient.mean(dims, keepdim=True)))
        return correlation.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None
