"""Af-DCD: augmentation-free dense contrastive distillation."""

from __future__ import annotations

from math import gcd
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._relations import ValueAndGradient, with_gradient
from rmrkd_cli.losses.mgd import MGDLoss
from rmrkd_cli.presets.fields import Fraction, NonNegative, Positive, PositiveCount

_PATCH = 4  # positions a side that are contrasted with each other
_AT_ONCE = 1 << 26  # numbers that a GPU's gradient of the distances holds at once, 256 MiB


class AfDCDLoss(DistillationLoss):
    """Generate the teacher's map as MGD does, and contrast groups of its channels at the positions of a patch.

    Source: J. Fan, C. Li, X. Liu, M. Song, A. Yao, "Augmentation-Free Dense Contrastive Knowledge Distillation for
    Efficient Semantic Segmentation", NeurIPS 2023; OSVAI/Af-DCD at 5b086a7, `losses/ocmgd.py`. Both maps are pooled by
    their maximum and cut into patches of 4x4 positions, and channels into groups. A piece is one group at one position.
    The generated piece must be nearer, by the L1 distance over tau, to the teacher's same piece than to its pieces of
    other groups in the patch (InfoNCE). Other positions of the same group count neither way.

    Rows and columns beyond the last whole patch are left out of the contrast; the released code fails on them. Maps of
    fewer than 16x16 positions are pooled by less than `pool`, so that they have a whole patch; those of fewer than 4x4
    are one patch.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        mask_ratio: Probability (0..1) that a position is hidden, with `mask: random`.
        mask: "random" positions, or the "centre": the middle third of the rows and columns is hidden.
        feature_weight: Factor of MGD's part.
        contrast_weight: Factor of the contrast, a sum over the groups and a mean over positions and images.
        tau: Temperature of the contrast.
        groups: Groups of channels; their greatest common divisor if the teacher's channels are no multiple.
        pool: Positions a side that are pooled into one before the contrast, at most.

    Raises:
        RmrkdError: There would be one group, which has nothing to contrast with.
    """

    default_stage = 4
    search = {"mask_ratio": (0.25, 0.9), "tau": (0.01, 1.0)}

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        mask_ratio: Fraction = 0.75,
        mask: Literal["random", "centre"] = "random",
        feature_weight: NonNegative = 2e-6,
        contrast_weight: NonNegative = 0.005,
        tau: Positive = 0.07,
        groups: PositiveCount = 16,
        pool: PositiveCount = 4,
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(mask=mask)
        self.mgd = MGDLoss(student_channels, teacher_channels, mask_ratio)
        self.mask = mask
        self.feature_weight, self.contrast_weight = feature_weight, contrast_weight
        self.tau, self.groups, self.pool = tau, gcd(groups, teacher_channels), pool
        if self.groups == 1 and contrast_weight > 0:
            divisor = next(
                (number for number in range(2, teacher_channels + 1) if teacher_channels % number == 0), None
            )
            raise RmrkdError(
                f"groups of {groups} and the teacher's {teacher_channels} channels have no common divisor, and one "
                "group has nothing to contrast with",
                f"groups={divisor}" if divisor is not None else "contrast_weight=0",
            )

    def forward(self, student: Tensor, teacher: Tensor, labels: Any = None, keep_mask: Tensor | None = None) -> Tensor:
        """Return both parts, each times its factor.

        The two convolutions run under autocast, as in MGD.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: Not used.
            keep_mask: (B, 1, H, W), 1 keeps a position and 0 hides it; made by `draw_mask` when not given.
        """
        if keep_mask is None:
            keep_mask = self.draw_mask(student)
        generated, target = self.mgd.generate(student, teacher, keep_mask)
        features = self.feature_weight * (generated - target).square().sum() / len(student)
        if self.contrast_weight == 0:
            return features
        with torch.autocast(student.device.type, enabled=False):
            return features + self.contrast_weight * self._contrast(generated, target)

    def draw_mask(self, like: Tensor) -> Tensor:
        """Return a (B, 1, H, W) mask on the device of `like`."""
        if self.mask == "random":
            return self.mgd.draw_mask(like)
        keep = like.new_ones((len(like), 1, *like.shape[2:]))
        height, width = like.shape[2:]
        keep[:, :, height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 0
        return keep

    def _contrast(self, generated: Tensor, target: Tensor) -> Tensor:
        """Return the sum over groups of InfoNCE, mean over B and positions."""
        ours, theirs = (self._pieces(maps) for maps in (generated, target))
        return with_gradient(self._compare, ours, theirs)

    def _compare(self, ours: Tensor, theirs: Tensor, needs_gradient: bool) -> ValueAndGradient:
        """Return the contrast of pieces (patches, pieces, C), and its gradient for `ours` where it is needed.

        A few patches at a time: on a GPU the gradient of L1 distances holds every difference of two pieces.
        """
        pieces, width = ours.shape[1:]
        places = len(ours) * pieces // self.groups
        total, gradient = ours.new_zeros(()), torch.empty_like(ours) if needs_gradient else None
        step = max(1, _AT_ONCE // (pieces**2 * width))
        for start in range(0, len(ours), step):
            block = slice(start, start + step)
            with torch.set_grad_enabled(needs_gradient):
                leaf = ours[block].detach().requires_grad_(needs_gradient)
                value = self._info_nce(leaf, theirs[block])
            if gradient is not None:
                (gradient[block],) = torch.autograd.grad(value, leaf)
            total += value.detach()
        return total / places, None if gradient is None else gradient.div_(places)

    def _info_nce(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return the sum of InfoNCE over the pieces of patches."""
        similarity = torch.cdist(ours, theirs, p=1).neg() / self.tau  # (patches, pieces, pieces)
        group = torch.arange(similarity.shape[1], device=similarity.device) % self.groups
        neither = group[:, None] == group
        neither.fill_diagonal_(False)
        counted = similarity.masked_fill(neither, -torch.inf)
        return (counted.logsumexp(2) - similarity.diagonal(dim1=1, dim2=2)).sum()

    def _pieces(self, maps: Tensor) -> Tensor:
        """Return the pieces of each patch, (B * patches, positions * groups, C / groups); the group varies fastest."""
        pool = max(1, min(self.pool, *(length // _PATCH for length in maps.shape[2:])))
        high, wide = (min(_PATCH, length) for length in maps.shape[2:])
        rows, columns = maps.shape[2] // (high * pool), maps.shape[3] // (wide * pool)
        pooled = F.max_pool2d(maps[:, :, : rows * high * pool, : columns * wide * pool], pool)
        cut = pooled.reshape(len(maps), self.groups, -1, rows, high, columns, wide)
        return cut.permute(0, 3, 5, 4, 6, 1, 2).reshape(
            len(maps) * rows * columns, high * wide * self.groups, maps.shape[1] // self.groups
        )
