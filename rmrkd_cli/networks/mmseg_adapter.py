"""Run mmsegmentation's segmentors, and take their feature maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.data.normalization import IMAGENET, Normalization
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import Adapter, FittedWeights, MapName
from rmrkd_cli.networks.mmseg_loss import head_loss

_BACKBONE = "backbone."
_HEADS = ("decode_head.", "auxiliary_head.")
# Keys of ImageNet files outside the backbone; conv2 is the last layer of mmcls's MobileNetV2, which mmseg's has not.
_CLASSIFIERS = ("fc.", "head.", "classifier.", "conv2.")


class MmsegAdapter(Adapter):
    """Of a segmentor with `extract_feat` and one `decode_head`."""

    def __init__(self, network: nn.Module, normalization: Normalization = IMAGENET) -> None:
        self.normalization = normalization
        head: Any = network.decode_head
        self.num_classes = int(getattr(head, "num_classes", 0))
        self.align_corners = bool(getattr(network, "align_corners", False))
        self.threshold = float(head.threshold) if getattr(head, "out_channels", 0) == 1 else None

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        """Return the maps; see `Adapter.maps`.

        In training `head` has passed the head's dropout, as in CIRKD's networks. There is no `head` where the decode
        head does not use `conv_seg`.

        Raises:
            RmrkdError: The decode head returns several maps.
        """
        features = list(network.extract_feat(self.to_input(images)))  # type: ignore[operator]
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
        for number, head in enumerate(_auxiliary_heads(network) if auxiliary else []):
            maps["aux"] = maps[f"_aux{number}"] = head(features)
        return maps

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = network.decode_head(list(network.extract_feat(self.to_input(images))))  # type: ignore[operator]
        return logits

    def losses(self, network: nn.Module, maps: Mapping[MapName, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return the losses of the heads as their configs define them."""
        losses = {"ce": head_loss(network.decode_head, maps["logits"], labels)}
        heads = _auxiliary_heads(network)
        if heads:
            each = [head_loss(head, maps[f"_aux{number}"], labels) for number, head in enumerate(heads)]
            losses["aux_ce"] = torch.stack(each).sum()
        return losses

    def fit_weights(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, is_student: bool) -> FittedWeights:
        """Fit weights of a whole network, or of a backbone with or without `backbone.` before its names."""
        if not is_student or any(key.startswith(_HEADS) for key in state):
            return FittedWeights(dict(state))
        return fit_backbone(state)

    def without_training_heads(self, network: nn.Module) -> nn.Module:
        if getattr(network, "auxiliary_head", None) is not None:
            network.auxiliary_head = None  # type: ignore[assignment]
        return network


def fit_backbone(state: Mapping[str, Tensor]) -> FittedWeights:
    """Return weights of a backbone, such as an ImageNet file of mmsegmentation's zoo, under a segmentor's names."""
    renamed = {f"{_BACKBONE}{key.removeprefix(_BACKBONE)}": value for key, value in state.items()}
    return FittedWeights(renamed, _BACKBONE, tuple(f"{_BACKBONE}{prefix}" for prefix in _CLASSIFIERS))


def _auxiliary_heads(network: nn.Module) -> list[Any]:
    """Return the heads that are used only in training, in order."""
    if not getattr(network, "with_auxiliary_head", False):
        return []
    heads = network.auxiliary_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


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
