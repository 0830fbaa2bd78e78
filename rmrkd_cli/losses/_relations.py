"""Relations between the positions of maps: unit vectors, blocks of rows, and gradients that are made beside the value.

A matrix of all pairs of positions takes gigabytes. The losses on such matrices make them a block of rows at a time, and
with each block its part of the gradient, so that one map outlives the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Compared = tuple[Tensor, Tensor | None]  # a value and its gradient
SHORTEST = 1e-12  # F.normalize's lower bound of a length
_CPU_BLOCK = 1 << 20  # values of a matrix of pairs that are made at once: near a core's cache,
_GPU_BLOCK = 1 << 22  # and worth a kernel's launch


def rows_of(maps: Tensor) -> Tensor:
    """(B, C, H, W) to (B, P, C), one row a position; a channels-last map is not copied."""
    return maps.flatten(2).mT.contiguous()


def unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., C) of length 1, as F.normalize makes them, and their lengths before (..., 1)."""
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / lengths.clamp_min(SHORTEST), lengths


def through_lengths(gradient: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
    """The gradient of rows from the one of their unit vectors, in whose place it is written.

    A row shorter than `SHORTEST` has no direction and receives none; F.normalize's would be 1e12 times too long.
    """
    gradient.addcmul_(units, (units * gradient).sum(-1, keepdim=True), value=-1)
    return gradient.div_(lengths.clamp_min(SHORTEST)).masked_fill_(lengths <= SHORTEST, 0)


def blocks(rows: int, columns: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of blocks that cover a matrix."""
    step = max(1, (_CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK) // columns)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def with_gradient(compare: Callable[[Tensor, Tensor, bool], Compared], ours: Tensor, theirs: Tensor) -> Tensor:
    """A scalar whose gradient is made beside it.

    Args:
        compare: Of our rows and theirs: the value, and the gradient of our rows where the last argument asks for it.
    """
    wanted = torch.is_grad_enabled() and ours.requires_grad
    with torch.no_grad():
        value, gradient = compare(ours, theirs, wanted)
    if gradient is None:
        return value
    joined: Tensor = _WithGradient.apply(ours, value, gradient)
    return joined


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None]:
        return factor * ctx.saved_tensors[0], None, None
