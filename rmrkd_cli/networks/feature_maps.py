"""The maps inside a segmentation network that losses compare, taken without changing the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

MapName = int | str  # 1..4 for the backbone's stages, `head`, `logits`, `aux`


def decode(network: nn.Module, features: list[Tensor]) -> dict[MapName, Tensor]:
    """What an mmsegmentation network makes of its backbone's maps.

    Returns:
        The stages 1 to 4 (as many as there are), `logits` (B, K, H, W) of the decode head before upsampling, and
        `head` (B, C, H, W), what its classifier takes: in training behind the head's dropout, as in CIRKD's networks.
        Without `head` where a head classifies in another way.
    """
    maps: dict[MapName, Tensor] = dict(enumerate(features, 1))
    with _input_of(network.decode_head.conv_seg) as taken:  # type: ignore[union-attr,arg-type]
        maps["logits"] = network.decode_head(features)  # type: ignore[operator]
    if taken:
        maps["head"] = taken[-1]
    return maps


def auxiliary_heads(network: nn.Module) -> list[Any]:
    """The heads that only train, in their order; `aux` are the logits of the last."""
    if not getattr(network, "with_auxiliary_head", False):
        return []
    heads = network.auxiliary_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


@contextmanager
def _input_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    taken: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    try:
        yield taken
    finally:
        handle.remove()
