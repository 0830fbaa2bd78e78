"""The module that is exported: preprocessing, network, resizing and, if requested, the decision for a class."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmrkd_cli.data.transforms import NORMALIZE
from rmrkd_cli.errors import RunError
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.inference import folded_copy

MIN_SIDE = 32  # pixels
_MAX_UINT8_CLASSES = 256


class ExportGraph(nn.Module):
    """A network as other programs run it.

    Input: an RGB image (N, 3, H, W), uint8 if `raw`, else normalized float32. Output: logits (N, C, H, W) float32
    (one channel for a binary head), or if `classes` the class indices (N, H, W), uint8 up to 256 classes, else int64.

    Args:
        network: A segmentor.
        raw: The graph normalizes its input.
        classes: Return class indices instead of logits.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, *, raw: bool, classes: bool) -> None:
        super().__init__()
        self.network, self.raw, self.classes = network, raw, classes
        self.adapter = adapter_of(network)
        self.fits_uint8 = self.adapter.num_classes <= _MAX_UINT8_CLASSES
        self.threshold = self.adapter.threshold
        self.register_buffer("mean", _channels(NORMALIZE["mean"]))
        self.register_buffer("scale", 1 / _channels(NORMALIZE["std"]))

    def forward(self, image: Tensor) -> Tensor:
        normalized = (image.float() - self.mean) * self.scale if self.raw else image
        resized: Tensor = functional.interpolate(
            self.adapter.logits(self.network, normalized),
            size=image.shape[2:], mode="bilinear", align_corners=self.adapter.align_corners,
        )  # fmt: skip
        if not self.classes:
            return resized
        labels = predict_classes(resized, self.threshold)
        return labels.to(torch.uint8) if self.fits_uint8 else labels


def build_graph(network: nn.Module, *, raw: bool, classes: bool) -> ExportGraph:
    """Return a copy of a network on the CPU, ready for export: no auxiliary head, batch norm folded."""
    plain = copy.deepcopy(network).cpu().eval()
    adapter_of(plain).without_training_heads(plain)
    inference = folded_copy(plain)
    for parent in list(inference.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                setattr(parent, name, AdaptivePooling(_height_width(layer.output_size)))
    return ExportGraph(inference, raw=raw, classes=classes).eval().requires_grad_(False)


def predict_classes(logits: Tensor, threshold: float | None) -> Tensor:
    """Return the class indices (N, H, W), int64, of logits (N, C, H, W)."""
    return logits.argmax(1) if threshold is None else (logits[:, 0].sigmoid() > threshold).long()


class AdaptivePooling(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, which export for any image size.

    Bin i of k over n positions covers floor(i n / k) to ceil((i + 1) n / k). The matrices are computed from the shape
    of the map, so that they do not depend on the size used for tracing.

    Args:
        size: (height, width) of the output.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        for name, count in zip(("rows", "columns"), size, strict=True):
            self.register_buffer(name, torch.arange(count, dtype=torch.float32).unsqueeze(1), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        if self.size == (1, 1):
            return maps.mean((2, 3), keepdim=True)
        column, row = maps[0, 0, :, 0], maps[0, 0, 0, :]
        pooled = maps @ _bin_weights(row, self.columns).transpose(0, 1)  # type: ignore[arg-type]
        return _bin_weights(column, self.rows) @ pooled  # type: ignore[arg-type]


def _bin_weights(line: Tensor, bins: Tensor) -> Tensor:
    """Return the (k, n) weights of the mean over each bin; only the length n of `line` is used.

    The bounds are compared as products of integers, which float32 represents exactly.
    """
    count = bins.shape[0]
    ends = torch.ones_like(line).cumsum(0)
    length = ends[-1:]
    inside = (ends * count > bins * length) & ((ends - 1) * count < (bins + 1) * length)
    weights = inside.to(line.dtype)
    return weights / weights.sum(1, keepdim=True)


def example_input(graph: ExportGraph) -> Tensor:
    """Return a batch to trace a graph with; its batch size, height and width all differ."""
    image = torch.randint(0, 256, (2, 3, 4 * MIN_SIDE, 5 * MIN_SIDE), dtype=torch.uint8)
    return image if graph.raw else image.float() / 64 - 2


def _height_width(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height is None or width is None:
        raise RunError("cannot export adaptive pooling with a fixed size in one direction only")
    return int(height), int(width)


def _channels(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
