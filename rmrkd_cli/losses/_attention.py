"""Spatial attention: how strong a feature map is at each position."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rmrkd_cli.losses._similarity import position_norms


def attention_map(features: Tensor) -> Tensor:
    """Return the mean of squares over channels: (B, C, H, W) to (B, 1, H, W)."""
    attention: Tensor = _MeanSquare.apply(features.flatten(2))
    return attention.reshape(features.shape[0], 1, *features.shape[2:])


def normalize_map(maps: Tensor) -> Tensor:
    """Return each image's map as a vector of length 1: (B, 1, H, W) to (B, P). A zero map stays zero."""
    return F.normalize(maps.flatten(1), dim=1)


class _MeanSquare(Function):
    """Saves only the features, which the network saves anyway; plain autograd would also save their squares."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return position_norms(features).square_().div_(features.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        features: Tensor = ctx.saved_tensors[0]
        return features * (gradient * (2 / features.shape[1]))
