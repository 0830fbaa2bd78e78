"""A 3x3 convolution in a third of the multiplications (Winograd's F(4x4, 3x3)), for wide layers on CPUs.

oneDNN, which torch uses on CPUs, has no such kernel; cuDNN on GPUs has its own. On one core, forward and backward of
MGD take 1/2.1 of the time at 512 channels and 1/1.7 at 2048, a frozen PSPNet-R101 1/1.3, and a whole training step of
psp101-psp18-city 1/1.8.

Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. The interpolation points
0, 1, -1, 1/2, -2 and infinity keep the rounding at 1.5e-6 of the result (a direct convolution's is 5e-7).
Shapes: N = 36 values of a transformed 6x6 tile, T tiles, C channels in, D channels out.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_STEP = 4  # outputs per tile and dimension
_SIDE = _STEP + 2  # inputs per tile and dimension
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
_MIN_CHANNELS = 512  # with fewer, the transforms cost more than the multiplications they save
_MAX_PADDING = 1.5  # computed outputs per needed output
_MAX_VALUES = 1 << 27  # of transformed tiles: half a gigabyte
_BLOCK = 512  # output channels whose weights are transformed at once in training


def is_worth_it(conv: nn.Module) -> bool:
    """Return whether a layer is a 3x3 convolution of stride 1 that keeps the map's size and is wide enough to gain."""
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.groups == 1
        and conv.padding == conv.dilation
        and conv.dilation[0] == conv.dilation[1]
        and conv.padding_mode == "zeros"
        and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
    )


class FrozenConv(nn.Module):
    """Run a layer that `is_worth_it` in inference, with weights transformed once. The output is channels-last."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.weights = _transform_weights(conv.weight.detach())

    def forward(self, features: Tensor) -> Tensor:
        dilation = self.conv.dilation[0]
        if not _fits(features, dilation):
            result: Tensor = self.conv(features)
            return result
        tiles = _Tiles(features.shape, dilation)
        products = torch.bmm(tiles.transform(features), self.weights.transpose(1, 2))
        out = tiles.assemble(products)
        return out if self.conv.bias is None else out.add_(self.conv.bias.view(-1, 1, 1))


def convolve(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return `conv(features)` with gradients for features and weights, for a layer that `is_worth_it`.

    It uses Winograd's algorithm for float32 on a CPU, and `conv` itself for anything else.
    """
    if not _fits(features, conv.dilation[0]):
        result: Tensor = conv(features)
        return result
    out: Tensor = _Convolution.apply(features, conv.weight, conv.dilation[0])
    return out if conv.bias is None else out + conv.bias.view(-1, 1, 1)


def _fits(features: Tensor, dilation: int) -> bool:
    if features.device.type != "cpu" or features.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    batch, channels, height, width = features.shape
    rows, columns = (-(-size // (_STEP * dilation)) * _STEP * dilation for size in (height, width))
    values = rows * columns // _STEP**2 * _SIDE**2 * batch * channels
    return rows * columns <= _MAX_PADDING * height * width and values <= _MAX_VALUES


class _Tiles:
    """Overlapping 6x6 tiles of a padded map; with dilation d, those of its d * d interleaved submaps."""

    def __init__(self, shape: tuple[int, ...], dilation: int) -> None:
        self.batch, _, self.height, self.width = shape
        self.dilation = dilation
        self.down, self.across = (-(-size // (_STEP * dilation)) for size in (self.height, self.width))
        self.count = self.batch * self.down * self.across * dilation**2

    def transform(self, features: Tensor) -> Tensor:
        """Return (B, C, H, W) as transformed tiles (N, T, C)."""
        tiles = self._view(self._padded(features))
        return (_matrix("input") @ tiles.reshape(_SIDE**2, -1)).view(_SIDE**2, self.count, -1)

    def transform_back(self, gradient: Tensor) -> Tensor:
        """Apply the transpose of `transform`: (N, T, C) to (B, C, H, W), adding tiles where they overlap."""
        channels = gradient.shape[2]
        parts = _matrix("input").t() @ gradient.view(_SIDE**2, -1)
        padded = self._padded(gradient.new_zeros(self.batch, channels, self.height, self.width))
        shape = (_SIDE, _SIDE, self.batch, self.down, self.dilation, self.across, self.dilation, channels)
        for target_row, row in zip(self._view(padded), parts.view(shape), strict=True):
            for target, part in zip(target_row, row, strict=True):
                target += part
        d = self.dilation
        return padded[:, d : d + self.height, d : d + self.width].permute(0, 3, 1, 2)

    def assemble(self, products: Tensor) -> Tensor:
        """Return products (N, T, D) as a map (B, D, H, W), channels-last."""
        parts = _matrix("output") @ products.view(_SIDE**2, -1)
        shape = (_STEP, _STEP, self.batch, self.down, self.dilation, self.across, self.dilation, products.shape[2])
        whole = parts.view(shape).permute(2, 3, 0, 4, 5, 1, 6, 7)
        size = (_STEP * self.dilation * self.down, _STEP * self.dilation * self.across)
        return whole.reshape(self.batch, *size, -1)[:, : self.height, : self.width].permute(0, 3, 1, 2)

    def disassemble(self, gradient: Tensor) -> Tensor:
        """Apply the transpose of `assemble`: (B, D, H, W) to (N, T, D)."""
        d, channels = self.dilation, gradient.shape[1]
        whole = gradient.new_zeros(self.batch, _STEP * d * self.down, _STEP * d * self.across, channels)
        whole[:, : self.height, : self.width] = gradient.permute(0, 2, 3, 1)
        parts = whole.view(self.batch, self.down, _STEP, d, self.across, _STEP, d, channels)
        flat = parts.permute(2, 5, 0, 1, 3, 4, 6, 7).reshape(_STEP**2, -1)
        return (_matrix("output").t() @ flat).view(_SIDE**2, self.count, channels)

    def _padded(self, features: Tensor) -> Tensor:
        """Return (B, H', W', C), padded with zeros to a whole number of tiles."""
        d = self.dilation
        rows, columns = (d * (_STEP * tiles + 2) for tiles in (self.down, self.across))
        padded = features.new_zeros(self.batch, rows, columns, features.shape[1])
        padded[:, d : d + self.height, d : d + self.width] = features.permute(0, 2, 3, 1)
        return padded

    def _view(self, padded: Tensor) -> Tensor:
        """Return every tile of every submap as a view (6, 6, B, tiles down, d, tiles across, d, C)."""
        d, (image, row, column, _) = self.dilation, padded.stride()
        return padded.as_strided(
            (_SIDE, _SIDE, self.batch, self.down, d, self.across, d, padded.shape[3]),
            (row * d, column * d, image, row * _STEP * d, row, column * _STEP * d, column, 1),
        )


class _Convolution(torch.autograd.Function):
    """Works in blocks of output channels: all transformed weights at once take four times the memory of the weights."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, dilation: int) -> Tensor:
        tiles = _Tiles(features.shape, dilation)
        inputs = tiles.transform(features)
        blocks = (_transform_weights(block).transpose(1, 2) for block in torch.split(weight, _BLOCK))
        parts = [tiles.assemble(torch.bmm(inputs, block)) for block in blocks]
        ctx.save_for_backward(features, weight)
        ctx.dilation = dilation
        return torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        features, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            return *_gradients(features, weight, gradient, ctx.dilation), None


def _gradients(features: Tensor, weight: Tensor, gradient: Tensor, dilation: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of the features and of the weights."""
    tiles = _Tiles(features.shape, dilation)
    inputs = tiles.transform(features)
    to_inputs = torch.zeros_like(inputs)
    to_weight = torch.empty_like(weight)
    blocks = zip(*(torch.split(each, _BLOCK) for each in (weight, to_weight, gradient.transpose(0, 1))), strict=True)
    for block, to_block, outputs in blocks:
        to_products = tiles.disassemble(outputs.transpose(0, 1))
        to_inputs.baddbmm_(to_products, _transform_weights(block))
        products = torch.bmm(to_products.transpose(1, 2), inputs)  # (N, D, C)
        kernels = _matrix("weight").t() @ products.view(_SIDE**2, -1)
        to_block.copy_(kernels.view(3, 3, *products.shape[1:]).permute(2, 3, 0, 1))
    return tiles.transform_back(to_inputs), to_weight


def _transform_weights(weight: Tensor) -> Tensor:
    """Return weights (D, C, 3, 3) transformed to (N, D, C)."""
    kernels = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (_matrix("weight") @ kernels).view(_SIDE**2, *weight.shape[:2])


@cache
def _matrix(which: str) -> Tensor:
    """Return the transform of both dimensions at once: (N, N) for inputs, (16, N) for outputs, (N, 9) for weights."""
    output, weight, inputs = _cook_toom(torch.tensor(_POINTS, dtype=torch.float64))
    one = {"output": output, "weight": weight, "input": inputs}[which]
    return torch.kron(one, one).float()


def _cook_toom(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return matrices A (4, 6), G (6, 3), B (6, 6) with A ((G g) * (B d)) = the four correlations of g (3) with d (6).

    A product of polynomials is computed from values at the points and at infinity, by interpolation. A correlation is
    the transpose of such a product.
    """
    others = [torch.cat([points[:i], points[i + 1 :]]) for i in range(len(points))]
    scale = torch.stack([(point - rest).prod() for point, rest in zip(points, others, strict=True)])
    infinity = torch.zeros(_SIDE, 1, dtype=points.dtype)
    infinity[-1] = 1
    output = torch.cat([torch.vander(points, _STEP, increasing=True).t(), infinity[-_STEP:]], dim=1)
    weight = torch.cat([torch.vander(points, 3, increasing=True) / scale[:, None], infinity[-3:].t()])
    inputs = torch.stack([_with_roots(rest) for rest in (*others, points)])
    return output, weight, inputs


def _with_roots(roots: Tensor) -> Tensor:
    """Return the six coefficients, lowest first, of the monic polynomial with these roots."""
    result = torch.zeros(_SIDE, dtype=roots.dtype)
    result[0] = 1
    for root in roots:
        result = result.roll(1) - root * result
    return result
