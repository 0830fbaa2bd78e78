"""DIST: correlations of the class probabilities, of each pixel and of each class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rmrkd_cli.losses._functional import check_choice, check_pair, working_precision

_GUARD = 1e-8  # the source adds it to the product of two lengths
_OVER = {"positions": (0, 2, 3), "images": (0,)}


class DISTLoss(nn.Module):
    """The student's class probabilities correlate with the teacher's, over classes and over pixels.

    Source: T. Huang, S. You, F. Wang, C. Qian, C. Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022;
    hunto/DIST_KD at 6d93ca0, `segmentation/losses/dist_kd.py`. A temperature and its tau^2 are mmrazor's
    (`dist_loss.py` at 90c7af1); the source has none. The source's 1e-8 in each denominator is kept: probabilities of a
    class that hardly vary (a standard deviation of 1e-6 over 8,192 pixels) correlate with themselves by 0.45 only, so
    absent classes add a constant and no gradient, and the loss of equal networks is only nearly 0. Its range is 0 to
    2 (beta + gamma) tau^2. Ignored pixels count.

    Args:
        num_classes: K, equal to the logits' channels.
        tau: Temperature.
        beta: Factor of the correlations over the classes of a pixel.
        gamma: Factor of the correlations over the pixels of a class.
        intra_over: Which pixels these are: "positions", those of the whole batch, or "images", as mmrazor's code comes
            to do with maps: the batch's pixels at one position, a constant for a batch of one.
    """

    def __init__(
        self,
        num_classes: int,
        tau: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        intra_over: str = "positions",
    ) -> None:
        super().__init__()
        check_choice("intra_over", intra_over, tuple(_OVER))
        self.num_classes = num_classes
        self.tau = tau
        self.beta = beta
        self.gamma = gamma
        self.intra_over = intra_over

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The unweighted loss, a scalar, with beta and gamma applied.

        Args:
            student: (B, K, H, W) logits.
            teacher: (B, K, H, W) logits; receives no gradient.
            labels: Not used.
        """
        check_pair(student, teacher, "logits", (self.num_classes, self.num_classes))
        with torch.autocast(student.device.type, enabled=False):
            ours = working_precision(student)
            theirs = (teacher.detach().to(ours.dtype) / self.tau).softmax(1)
            ours = (ours / self.tau).softmax(1)
            inter = 1 - mean_correlation(ours, theirs, (1,))
            intra = 1 - mean_correlation(ours, theirs, _OVER[self.intra_over])
            return self.tau**2 * (self.beta * inter + self.gamma * intra)


def mean_correlation(student: Tensor, teacher: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean of Pearson's correlations of two maps over `dims`, each guarded as in the source.

    The teacher receives no gradient.
    """
    mean: Tensor = _MeanCorrelation.apply(student, teacher, dims)
    return mean


class _MeanCorrelation(torch.autograd.Function):
    """Keeps one map for the backward pass, the gradient: for centred a and b, (b - r |b| / |a| a) / (|a| |b| + guard).

    A vector without length has no direction, and no gradient through its length.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, dims: tuple[int, ...]) -> Tensor:
        a = student - student.mean(dims, keepdim=True)
        b = teacher - teacher.mean(dims, keepdim=True)
        ours, theirs = (x.square().sum(dims, keepdim=True).sqrt_() for x in (a, b))
        guarded = ours * theirs + _GUARD
        correlation = (a * b).sum(dims, keepdim=True).div_(guarded)
        along = (correlation * theirs / ours).masked_fill_(ours == 0, 0)
        ctx.save_for_backward(b.sub_(a.mul_(along)).div_(guarded * correlation.numel()))
        return correlation.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None
