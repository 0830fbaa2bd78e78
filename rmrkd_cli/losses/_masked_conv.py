"""A 3x3 convolution that computes only the positions a mask keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def convolve_kept(rows: Tensor, keep: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return `conv` (3x3, padding 1, with bias) of the map that is `rows` where `keep` is set and zero elsewhere.

    A kept position adds one matrix product to each of its nine neighbours. The work of both passes is proportional to
    the share of kept positions; MGD keeps a quarter.

    Args:
        rows: (N, C) features of the kept positions, in the order of `keep.nonzero()`.
        keep: (B, H, W) bool.

    Returns:
        (B, C', H, W), channels-last.
    """
    batch, height, width = keep.shape
    image, row, column = keep.nonzero(as_tuple=True)
    padded = (image * (height + 2) + row + 1) * (width + 2) + column + 1
    size = batch * (height + 2) * (width + 2)
    out: Tensor = _ScatterConv.apply(rows, conv.weight, padded, size, width + 2)
    assert conv.bias is not None
    inner = out.view(batch, height + 2, width + 2, -1)[:, 1:-1, 1:-1] + conv.bias
    return inner.permute(0, 3, 1, 2)


class _ScatterConv(torch.autograd.Function):
    """Adds nine matrix products, one for each offset of the kernel, to shifted positions."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, padded: Tensor, size: int, stride: int) -> Tensor:
        kernel = _by_offset(weight)
        out = rows.new_zeros(size, weight.shape[0])
        for offset, shift in enumerate(_shifts(stride)):
            out.index_add_(0, padded + shift, rows @ kernel[:, offset].t())
        ctx.save_for_backward(rows, weight, padded)
        ctx.stride = stride
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        with torch.autocast(gradient.device.type, enabled=False):
            rows, weight, padded = ctx.saved_tensors
            return *_gradients(gradient, rows, weight, padded, ctx.stride), None, None, None


def _gradients(gradient: Tensor, rows: Tensor, weight: Tensor, padded: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of the rows and of the weights."""
    kernel = _by_offset(weight)
    rows_gradient = torch.zeros_like(rows)
    kernel_gradient = torch.empty(kernel.shape, dtype=kernel.dtype, device=kernel.device)
    for offset, shift in enumerate(_shifts(stride)):
        to_outputs = gradient[padded + shift]
        rows_gradient.addmm_(to_outputs, kernel[:, offset])
        kernel_gradient[:, offset] = to_outputs.t() @ rows
    side = kernel_gradient.view(kernel.shape[0], 3, 3, kernel.shape[2])
    return rows_gradient, side.permute(0, 3, 1, 2)


def _by_offset(weight: Tensor) -> Tensor:
    """Return (C', C, 3, 3) as (C', 9, C), without a copy where the weight is channels-last."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], 9, weight.shape[1])


def _shifts(stride: int) -> list[int]:
    """Return how far each offset's product moves in the padded map, opposite to the offset."""
    return [-(row * stride + column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
