"""Bilinear resizing and adaptive average pooling whose backward passes are products with matrices.

Both are separable and linear: `out = rows @ maps @ columns.T`. The forward pass is torch's own. Its backward passes add
with atomics on a GPU, in any order, or as sorted index additions under `torch.use_deterministic_algorithms`, which take
many times longer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rmrkd_cli.evaluation.precision import float32_precision


def resize_bilinear(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Return `F.interpolate(maps, size, mode="bilinear")` of (B, C, H, W), with a deterministic backward pass."""
    resized: Tensor = _Separable.apply(maps, size, partial(_bilinear, align_corners=align_corners))
    return resized


def pool_average(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `F.adaptive_avg_pool2d(maps, size)` of (B, C, H, W), with a deterministic backward pass."""
    pooled: Tensor = _Separable.apply(maps, size, _pool)
    return pooled


def replace_functions() -> None:
    """Let `F.interpolate` and `F.adaptive_avg_pool2d` use them on a GPU while deterministic algorithms are on.

    All networks and losses of this process call these two functions, `nn.AdaptiveAvgPool2d` too.
    """
    if not hasattr(F.interpolate, "__wrapped__"):
        F.interpolate = _interpolate(F.interpolate)
        F.adaptive_avg_pool2d = _adaptive_avg_pool2d(F.adaptive_avg_pool2d)


def _interpolate(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(original)
    def interpolate(
        input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: Any = None,
        *rest: Any, antialias: bool = False, **options: Any,
    ) -> Tensor:  # fmt: skip
        if mode == "bilinear" and size is not None and not antialias and _applies_to(input):
            return resize_bilinear(input, _pair(size, input), bool(align_corners))
        return original(input, size, scale_factor, mode, align_corners, *rest, antialias=antialias, **options)

    return interpolate


def _adaptive_avg_pool2d(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(original)
    def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
        return pool_average(input, _pair(output_size, input)) if _applies_to(input) else original(input, output_size)

    return adaptive_avg_pool2d


def _applies_to(maps: Tensor) -> bool:
    return maps.dim() == 4 and maps.device.type == "cuda" and torch.are_deterministic_algorithms_enabled()


def _pair(size: Any, maps: Tensor) -> tuple[int, int]:
    """Return (height, width) of one number or two; None keeps the map's."""
    pair = tuple(size) if isinstance(size, (tuple, list, torch.Size)) else (size, size)
    height, width = (int(own if side is None else side) for side, own in zip(pair, maps.shape[2:], strict=True))
    return height, width


def _bilinear(maps: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    resized: Tensor = torch.ops.aten.upsample_bilinear2d(maps, list(size), align_corners)
    return resized


def _pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    pooled: Tensor = torch.ops.aten.adaptive_avg_pool2d(maps, list(size))
    return pooled


class _Separable(Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, size: tuple[int, int], resize: Callable[..., Tensor]) -> Tensor:
        ctx.before, ctx.size, ctx.resize = maps.shape[2:], size, resize
        return resize(maps, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        full = gradient.double() if gradient.dtype == torch.float64 else gradient.float()
        # TF32 has 10 bits, which would change what is exact.
        with torch.autocast(gradient.device.type, enabled=False), float32_precision(tf32=False):
            rows, columns = (_matrix(ctx.resize, old, new, full) for old, new in zip(ctx.before, ctx.size, strict=True))
            return (rows.mT @ (full @ columns)).to(gradient.dtype), None, None


def _matrix(resize: Callable[..., Tensor], old: int, new: int, like: Tensor) -> Tensor:
    """Return the matrix (new, old) of one dimension: the resized unit vectors."""
    units = torch.eye(old, dtype=like.dtype, device=like.device).view(1, old, old, 1)
    return resize(units, (new, 1)).view(old, new).mT
