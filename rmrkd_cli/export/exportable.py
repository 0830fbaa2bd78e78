"""A network in the form that other programs run: images in, logits or classes out, at any size, in plain operations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RunError
from rmrkd_cli.networks.inference import folded

SMALLEST_SIDE = 32  # pixels
_MOST_SMALL = 256  # classes that 8 bits tell apart


class Exportable(nn.Module):
    """What is written into the file.

    Takes (N, 3, H, W), red first: uint8 where `raw`, else float32 that is normalised already. Gives logits (N, C, H, W)
    float32 (one channel alone where the network has a threshold), or where `classes` class indices (N, H, W), uint8
    (int64 above 256 classes), as large as the image.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, *, raw: bool, classes: bool) -> None:
        super().__init__()
        self.network, self.raw, self.classes = network, raw, classes
        self.align_corners = bool(network.align_corners)
        self.small = int(network.num_classes) <= _MOST_SMALL  # type: ignore[arg-type]
        self.threshold = threshold_of(network)
        self.register_buffer("mean", _channels(NORMALIZE["mean"]))
        self.register_buffer("scale", 1 / _channels(NORMALIZE["std"]))

    def forward(self, image: Tensor) -> Tensor:
        ready = (image.float() - self.mean) * self.scale if self.raw else image
        logits = self.network.decode_head(self.network.extract_feat(ready))  # type: ignore[operator]
        whole: Tensor = functional.interpolate(
            logits, size=image.shape[2:], mode="bilinear", align_corners=self.align_corners
        )
        if not self.classes:
            return whole
        chosen = classes_of(whole, self.threshold)
        return chosen.to(torch.uint8) if self.small else chosen


def threshold_of(network: nn.Module) -> float | None:
    """The probability above which a pixel is of the second class, of a head with one channel for two; else none."""
    head: Any = network.decode_head
    return float(head.threshold) if head.out_channels == 1 else None


def classes_of(logits: Tensor, threshold: float | None) -> Tensor:
    """(N, H, W) int64, from logits (N, C, H, W)."""
    return logits.argmax(1) if threshold is None else (logits[:, 0].sigmoid() > threshold).long()


class BinMeans(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, whose matrices follow from the shape of the map.

    Bin i of k over n positions goes from floor(i n / k) to ceil((i + 1) n / k). No number of it depends on the size
    that a graph was traced with, nor on the device.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        for name, count in zip(("rows", "columns"), size, strict=True):
            self.register_buffer(name, torch.arange(count, dtype=torch.float32).unsqueeze(1), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        if self.size == (1, 1):
            return maps.mean((2, 3), keepdim=True)
        height, width = maps[0, 0, :, 0], maps[0, 0, 0, :]
        across = maps @ _means(width, self.columns).transpose(0, 1)  # type: ignore[arg-type]
        return _means(height, self.rows) @ across  # type: ignore[arg-type]


def _means(line: Tensor, bins: Tensor) -> Tensor:
    """(k, n) weights of the mean over each bin; of the line (n) only its length counts. Products of integers: exact."""
    count = bins.shape[0]
    ends = torch.ones_like(line).cumsum(0)
    length = ends[-1:]
    inside = (ends * count > bins * length) & ((ends - 1) * count < (bins + 1) * length)
    weights = inside.to(line.dtype)
    return weights / weights.sum(1, keepdim=True)


def exportable(network: nn.Module, *, raw: bool, classes: bool) -> Exportable:
    """A copy of a network on the CPU without what only training needs, with batch norm folded in."""
    plain = copy.deepcopy(network).cpu().eval()
    if getattr(plain, "auxiliary_head", None) is not None:
        plain.auxiliary_head = None  # type: ignore[assignment]
    ready = folded(plain)
    for parent in list(ready.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                setattr(parent, name, BinMeans(_pair(layer.output_size)))
    return Exportable(ready, raw=raw, classes=classes).eval().requires_grad_(False)


def example(graph: Exportable) -> Tensor:
    """An image batch that a graph can be traced with; no side of it is another's."""
    image = torch.randint(0, 256, (2, 3, 4 * SMALLEST_SIDE, 5 * SMALLEST_SIDE), dtype=torch.uint8)
    return image if graph.raw else image.float() / 64 - 2


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height is None or width is None:
        raise RunError("the network pools to a size that follows from the image in one direction only")
    return int(height), int(width)


def _channels(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
