"""Channels, stride and size of the feature maps that losses compare."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import MapName, adapter_of


@dataclass(frozen=True)
class FeatureShapes:
    """Channels and stride of the feature maps that losses compare, by `MapName`.

    Attributes:
        sizes: (height, width) of the maps of the image that was measured.
        only_logits: The network is a file, which gives no feature maps.
        only_features: It gives no logits, and its maps are resized to the student's.
    """

    channels: dict[MapName, int]
    strides: dict[MapName, int]
    sizes: dict[MapName, tuple[int, int]] = field(default_factory=dict)
    only_logits: bool = False
    only_features: bool = False


def measure_shapes(network: nn.Module, size: tuple[int, int] = (64, 64)) -> FeatureShapes:
    """Run an image of this height and width through the network, and return the shapes of its feature maps."""
    adapter, training = adapter_of(network), network.training
    network.eval()
    device = next((parameter.device for parameter in network.parameters()), torch.get_default_device())
    with torch.no_grad():
        maps = adapter.maps(network, torch.zeros(1, 3, *size, device=device), auxiliary=True)
    network.train(training)
    shapes = {key: value.shape for key, value in maps.items() if not str(key).startswith("_")}
    return FeatureShapes(
        {key: shape[1] for key, shape in shapes.items()},
        {key: _stride(size[0], shape[2]) for key, shape in shapes.items()},
        {key: (shape[2], shape[3]) for key, shape in shapes.items()},
        adapter.only_logits,
        adapter.only_features,
    )


def _stride(pixels: int, positions: int) -> int:
    """Return the power of two that is nearest to the ratio: a side of 100 pixels has 13 positions at stride 8."""
    return 1 << max(0, round(math.log2(pixels / positions)))


def compute_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (B, K, h, w), not resized, of images (B, 3, H, W)."""
    return adapter_of(network).logits(network, images)


def segment(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (B, K, H, W) of images at their size, from a network of any library.

    Args:
        network: Of `load_network`.
        images: (B, 3, H, W) RGB, normalized as for ImageNet, whatever the network expects.

    Raises:
        RmrkdError: The images have another shape.
    """
    if images.dim() != 4:
        hint = "images[None] gives one image its batch" if images.dim() == 3 else "images of one size, stacked"
        raise RmrkdError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}", hint)
    adapter = adapter_of(network)
    logits = adapter.logits(network, images)
    if logits.shape[2:] == images.shape[2:]:
        return logits
    return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=adapter.align_corners)
