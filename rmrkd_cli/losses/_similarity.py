"""Cosines between class prototypes and every position of a feature map, with a backward pass that saves memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_MIN_NORM = 1e-8  # as in F.cosine_similarity
_EMPTY = 1e-6  # added to the number of positions by the released losses, so that the mean of none is 0
_BLOCK = 64  # channels whose squares fit a core's cache


def class_prototypes(features: Tensor, masks: Tensor) -> Tensor:
    """Return the mean feature of each class in each image: (B, C, P) and (B, K, P) to (B, K, C); zero where absent."""
    return masks @ features.transpose(1, 2) / (masks.sum(2, keepdim=True) + _EMPTY)


def prototype_cosines(features: Tensor, masks: Tensor, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return a map's class prototypes, and cosines of these and of other vectors with each position of the map.

    Args:
        features: (B, C, P); receives the gradient of the cosines, also through its own prototypes.
        masks: (B, K, P), 1 where a position belongs to the class, else 0.
        others: (B, M, C) further vectors; they receive no gradient.

    Returns:
        The prototypes (B, K, C), detached, and the cosines (B, K + M, P), those of the prototypes first.
    """
    cosines, prototypes = _PrototypeCosines.apply(features, masks, others)
    return prototypes, cosines


def cosines(vectors: Tensor, features: Tensor) -> Tensor:
    """Return the cosine of each vector with each position, without gradient: (B, M, C), (B, C, P) to (B, M, P)."""
    with torch.no_grad():
        return (_normalize(vectors)[0] @ features).mul_(_inverse_norms(features))


class _PrototypeCosines(torch.autograd.Function):
    """Allocates one tensor of the size of the features: their gradient.

    Plain autograd allocates one each for normalising, averaging and comparing, in both passes.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, masks: Tensor, others: Tensor | None) -> tuple[Tensor, Tensor]:
        prototypes = class_prototypes(features, masks)
        vectors = prototypes if others is None else torch.cat([prototypes, others], dim=1)
        units, norms = _normalize(vectors)
        scale = _inverse_norms(features)
        result = (units @ features).mul_(scale)
        ctx.save_for_backward(features, masks, units, norms, scale, result)
        ctx.mark_non_differentiable(prototypes)
        return result, prototypes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        with torch.autocast(gradient.device.type, enabled=False):
            return _features_gradient(gradient, *ctx.saved_tensors), None, None


def _features_gradient(
    gradient: Tensor, features: Tensor, masks: Tensor, units: Tensor, norms: Tensor, scale: Tensor, result: Tensor
) -> Tensor:
    """Return the gradient (B, C, P) of the features, as positions that are compared and as members of prototypes."""
    own, norms = units[:, : masks.shape[1]], norms[:, : masks.shape[1]]
    # The part along a position's own feature is removed: a cosine does not depend on the feature's length.
    along = (gradient * result).sum(1, keepdim=True).mul_(scale).mul_(scale).neg_()
    along.masked_fill_(scale >= 1 / _MIN_NORM, 0)  # a length below the bound is treated as constant
    gradient = gradient * scale
    to_units = gradient[:, : masks.shape[1]] @ features.transpose(1, 2)
    along_prototype = own * (own * to_units).sum(2, keepdim=True)
    to_vectors = (to_units - along_prototype.masked_fill_(norms <= _MIN_NORM, 0)) / norms
    to_sums = to_vectors / (masks.sum(2, keepdim=True) + _EMPTY)
    left = torch.cat([units, to_sums], dim=1).transpose(1, 2)
    return (features * along).baddbmm_(left, torch.cat([gradient, masks], dim=1))


def _normalize(vectors: Tensor) -> tuple[Tensor, Tensor]:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=2, keepdim=True).clamp_min(_MIN_NORM)
    return vectors / norms, norms


def _inverse_norms(features: Tensor) -> Tensor:
    """(B, C, P) to (B, 1, P)."""
    return position_norms(features).clamp_min_(_MIN_NORM).reciprocal_()


def position_norms(features: Tensor) -> Tensor:
    """Return the Euclidean norm of each position's vector: (B, C, P) to (B, 1, P)."""
    if features.device.type != "cpu" or features.stride(1) == 1:
        norms: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    else:  # on CPUs torch's norm over a strided dimension is ten times slower than reading it
        blocks = torch.split(features, _BLOCK, dim=1)
        norms = torch.stack([(block * block).sum(1, keepdim=True) for block in blocks]).sum(0).sqrt_()
    return norms
