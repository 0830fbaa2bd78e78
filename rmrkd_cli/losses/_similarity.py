"""Cosines between class prototypes and every position of a feature map, with a backward pass that wastes no memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SHORTEST = 1e-8  # F.cosine_similarity's lower bound of a length
_EMPTY = 1e-6  # the released losses' guard in the mean of no positions
_BLOCK = 64  # channels whose squares stay in a core's cache


def class_prototypes(features: Tensor, masks: Tensor) -> Tensor:
    """Mean feature of each class in each image: (B, C, P) and (B, K, P) to (B, K, C); zero where absent."""
    return masks @ features.transpose(1, 2) / (masks.sum(2, keepdim=True) + _EMPTY)


def prototype_cosines(features: Tensor, masks: Tensor, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Prototypes of a map, and the cosines of these and of other vectors with each of its positions.

    Args:
        features: (B, C, P); receives the gradient of the cosines, also through its own prototypes.
        masks: (B, K, P), 1 where a position belongs to the class, else 0.
        others: (B, M, C) further vectors; they receive no gradient.

    Returns:
        The prototypes (B, K, C), detached, and the cosines (B, K + M, P), the own prototypes' first.
    """
    cosines, prototypes = _PrototypeCosines.apply(features, masks, others)
    return prototypes, cosines


def cosines(vectors: Tensor, features: Tensor) -> Tensor:
    """Cosine of each vector with each position, without gradient: (B, M, C) and (B, C, P) to (B, M, P)."""
    with torch.no_grad():
        return (_unit(vectors)[0] @ features).mul_(_inverse_lengths(features))


class _PrototypeCosines(torch.autograd.Function):
    """One map of the size of the features is made: their gradient.

    Left to autograd, normalising, averaging and comparing make one each, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, masks: Tensor, others: Tensor | None) -> tuple[Tensor, Tensor]:
        prototypes = class_prototypes(features, masks)
        vectors = prototypes if others is None else torch.cat([prototypes, others], dim=1)
        units, lengths = _unit(vectors)
        scale = _inverse_lengths(features)
        result = (units @ features).mul_(scale)
        ctx.save_for_backward(features, masks, units, lengths, scale, result)
        ctx.mark_non_differentiable(prototypes)
        return result, prototypes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        with torch.autocast(gradient.device.type, enabled=False):
            return _gradient(gradient, *ctx.saved_tensors), None, None


def _gradient(
    gradient: Tensor, features: Tensor, masks: Tensor, units: Tensor, lengths: Tensor, scale: Tensor, result: Tensor
) -> Tensor:
    """Of the features (B, C, P): as what the vectors are compared with, and as what prototypes are means of."""
    own, lengths = units[:, : masks.shape[1]], lengths[:, : masks.shape[1]]
    # the length of a position's feature: turning it changes cosines, stretching it does not
    along = (gradient * result).sum(1, keepdim=True).mul_(scale).mul_(scale).neg_()
    along.masked_fill_(scale >= 1 / _SHORTEST, 0)  # below the bound a length is constant
    gradient = gradient * scale
    to_units = gradient[:, : masks.shape[1]] @ features.transpose(1, 2)
    turning = own * (own * to_units).sum(2, keepdim=True)
    to_vectors = (to_units - turning.masked_fill_(lengths <= _SHORTEST, 0)) / lengths
    to_sums = to_vectors / (masks.sum(2, keepdim=True) + _EMPTY)
    left = torch.cat([units, to_sums], dim=1).transpose(1, 2)
    return (features * along).baddbmm_(left, torch.cat([gradient, masks], dim=1))


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=2, keepdim=True).clamp_min(_SHORTEST)
    return vectors / lengths, lengths


def _inverse_lengths(features: Tensor) -> Tensor:
    """(B, C, P) to (B, 1, P)."""
    return lengths_of(features).clamp_min_(_SHORTEST).reciprocal_()


def lengths_of(features: Tensor) -> Tensor:
    """Euclidean length of each position's vector: (B, C, P) to (B, 1, P)."""
    if features.device.type != "cpu" or features.stride(1) == 1:
        lengths: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    else:  # on CPUs torch's norm over a strided dimension is ten times slower than reading it
        blocks = torch.split(features, _BLOCK, dim=1)
        lengths = torch.stack([(block * block).sum(1, keepdim=True) for block in blocks]).sum(0).sqrt_()
    return lengths
