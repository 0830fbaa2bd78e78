"""What the other packages use of a segmentation network, the same for every library.

The network stays the library's own module, so that its state dict has the library's keys. Its adapter is a plain
object without tensors, kept as an attribute; it is copied with the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.data.normalization import IMAGENET, Normalization
from rmrkd_cli.errors import RmrkdError

MapName = int | str  # 1..4 for the stages of the backbone, `head`, `logits`, `aux`
_ATTRIBUTE = "rmrkd_adapter"
_IGNORED = 255


@dataclass(frozen=True)
class FittedWeights:
    """Weights under the names of a network.

    Attributes:
        prefix: Of the names that the weights must cover: empty for all, `backbone.` for weights of a backbone.
        ignore: Prefixes of weights that the network may lack.
    """

    state: dict[str, Tensor]
    prefix: str = ""
    ignore: tuple[str, ...] = ()


class Adapter(ABC):
    """How to run a network of one library.

    Images are (B, 3, H, W), RGB and normalized as for ImageNet (`data.transforms.NORMALIZE`), whatever the network
    expects: the adapter converts them.

    Attributes:
        num_classes: Channels of the logits, or 2 for a binary head with one channel.
        align_corners: How logits are resized.
        threshold: Probability above which a pixel has class 1, for a binary head with one channel; None otherwise.
        normalization: What the network expects.
        only_logits: The network gives no feature maps and cannot be trained: it is a file.
        only_features: The network gives feature maps and no logits, as a teacher only; losses get its maps at the size
            of the student's.
        auxiliary_factor: Of the cross-entropy of the auxiliary head.
        may_skip_layers: Some layers may get no gradient.
        input_size: (height, width) to which every image is resized, whatever its size; None: images keep their scale.
        resizes: The adapter resizes images to a size that suits the network.
    """

    num_classes: int
    align_corners: bool = False
    threshold: float | None = None
    normalization: Normalization = IMAGENET
    only_logits: bool = False
    only_features: bool = False
    auxiliary_factor: float = 1.0
    may_skip_layers: bool = False
    input_size: tuple[int, int] | None = None
    resizes: bool = False

    @abstractmethod
    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        """Run the network, and return its feature maps.

        Args:
            auxiliary: Also run the heads that are used in training only.

        Returns:
            The stages 1 to 4 (as many as there are), (B, C, h, w); `logits` (B, K, h, w), not resized; `head`, the
            input of the last convolution before the logits, where there is one; `aux`, the logits of the last
            auxiliary head.
            Names that begin with `_` are for `losses` of the same adapter.
        """

    @abstractmethod
    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Run the network, and return its logits (B, K, h, w), not resized."""

    def as_map(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the output of a module as it is, or as a map (B, C, h, w) where it is one in another shape.

        Args:
            size: (h, w) of the network's maps of the same image.
        """
        return output

    def losses(self, network: nn.Module, maps: Mapping[MapName, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy of the heads: `ce`, and `aux_ce` of auxiliary heads with their factor.

        Args:
            maps: What `maps` returned with `auxiliary`.
            labels: (B, 1, H, W) int64, 255 ignored.
        """
        losses = {"ce": cross_entropy(maps["logits"], labels, self.align_corners)}
        if "aux" in maps:
            losses["aux_ce"] = self.auxiliary_factor * cross_entropy(maps["aux"], labels, self.align_corners)
        return losses

    def fit_weights(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, is_student: bool) -> FittedWeights:
        """Return the weights of a file under the network's names.

        Args:
            own: State dict of the network, whose values do not matter.
            state: Weights in the file.
            is_student: The file may cover only the backbone.
        """
        return FittedWeights(dict(state))

    def without_training_heads(self, network: nn.Module) -> nn.Module:
        """Remove the auxiliary heads of a copy, in place, and return it."""
        return network

    def to_input(self, images: Tensor) -> Tensor:
        """Return images as the network expects them."""
        if self.normalization == IMAGENET:
            return images
        mean, std, rgb = self.normalization
        order = range(3) if rgb else (2, 1, 0)
        channels = []
        for position, channel in enumerate(order):
            factor = IMAGENET.std[channel] / std[position]
            channels.append(images[:, channel] * factor + (IMAGENET.mean[channel] - mean[position]) / std[position])
        return torch.stack(channels, 1)


def cross_entropy(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """Return the mean cross-entropy of the labelled pixels, a scalar; 0 where there are none.

    Args:
        logits: (B, K, h, w); resized to the labels.
        labels: (B, 1, H, W) int64, 255 ignored.
    """
    resized = logits.float()
    if logits.shape[2:] != labels.shape[2:]:
        resized = F.interpolate(resized, labels.shape[2:], mode="bilinear", align_corners=align_corners)
    total = F.cross_entropy(resized, labels[:, 0], ignore_index=_IGNORED, reduction="sum")
    return total / (labels != _IGNORED).sum().clamp(min=1)


def set_adapter(network: nn.Module, adapter: Adapter) -> nn.Module:
    """Attach an adapter to the network that it is for, and return the network."""
    setattr(network, _ATTRIBUTE, adapter)
    return network


def find_adapter(network: nn.Module) -> Adapter | None:
    """Return the adapter of a network; one of mmsegmentation needs none. None for any other module."""
    adapter: Any = getattr(network, _ATTRIBUTE, None)
    if adapter is None and hasattr(network, "extract_feat") and hasattr(network, "decode_head"):
        from rmrkd_cli.networks.mmseg_adapter import MmsegAdapter

        adapter = MmsegAdapter(network)
    return adapter if isinstance(adapter, Adapter) else None


def adapter_of(network: nn.Module) -> Adapter:
    """Return the adapter of a network.

    Raises:
        RmrkdError: It has none.
    """
    adapter = find_adapter(network)
    if adapter is None:
        raise RmrkdError(
            f"`{type(network).__name__}` is no network that rmrkd knows how to run",
            "build it with `load_network`, or give an mmsegmentation segmentor",
        )
    return adapter
