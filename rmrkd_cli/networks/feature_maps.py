"""Take the feature maps that losses compare from a segmentation network, without changing it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError

MapName = int | str  # 1..4 for the backbone's stages, `head`, `logits`, `aux`


@dataclass(frozen=True)
class FeatureShapes:
    """Channels and stride of the feature maps that losses compare, by `MapName`.

    Attributes:
        sizes: (height, width) of the maps of the image that was measured.
    """

    channels: dict[MapName, int]
    strides: dict[MapName, int]
    sizes: dict[MapName, tuple[int, int]] = field(default_factory=dict)


def decode(network: nn.Module, features: list[Tensor]) -> dict[MapName, Tensor]:
    """Run the decode head on the backbone's feature maps, and return all maps.

    Returns:
        The stages 1 to 4 (as many as there are), `logits` (B, K, H, W) of the decode head, not resized, and `head`
        (B, C, H, W), the input of its last convolution `conv_seg`. In training `head` has passed the head's dropout, as
        in CIRKD's networks. There is no `head` where the decode head does not use `conv_seg`.

    Raises:
        RmrkdError: The decode head returns several maps.
    """
    maps: dict[MapName, Tensor] = dict(enumerate(features, 1))
    with _record_inputs(getattr(network.decode_head, "conv_seg", None)) as inputs:
        logits = network.decode_head(features)  # type: ignore[operator]
    if not isinstance(logits, Tensor):
        raise RmrkdError(
            f"the decode head `{type(network.decode_head).__name__}` returns {len(logits)} maps instead of one",
            "choose a config with another head, such as PSPNet, DeepLabV3 or UPerNet",
        )
    maps["logits"] = logits
    if inputs:
        maps["head"] = inputs[-1]
    return maps


def auxiliary_heads(network: nn.Module) -> list[Any]:
    """Return the heads that are used only in training, in order; `aux` names the logits of the last one."""
    if not getattr(network, "with_auxiliary_head", False):
        return []
    heads = network.auxiliary_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def measure_shapes(network: nn.Module, size: tuple[int, int] = (64, 64)) -> FeatureShapes:
    """Run an image of this height and width through the network, and return the shapes of its feature maps."""
    training = network.training
    network.eval()
    with torch.no_grad():
        features = list(network.extract_feat(torch.zeros(1, 3, *size, device=next(network.parameters()).device)))  # type: ignore[operator]
        maps = decode(network, features)
        for head in auxiliary_heads(network)[-1:]:
            maps["aux"] = head(features)
    network.train(training)
    return FeatureShapes(
        {key: value.shape[1] for key, value in maps.items()},
        {key: _stride(size[0], value.shape[2]) for key, value in maps.items()},
        {key: (value.shape[2], value.shape[3]) for key, value in maps.items()},
    )


def _stride(pixels: int, positions: int) -> int:
    """Return the power of two that is nearest to the ratio: a side of 100 pixels has 13 positions at stride 8."""
    return 1 << max(0, round(math.log2(pixels / positions)))


def compute_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (B, K, h, w) of the decode head, not resized, of images (B, 3, H, W)."""
    features = list(network.extract_feat(images))  # type: ignore[operator]
    logits: Tensor = network.decode_head(features)  # type: ignore[operator]
    return logits


@contextmanager
def _record_inputs(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    inputs: list[Tensor] = []
    if layer is None:
        yield inputs
        return
    handle = layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        handle.remove()
