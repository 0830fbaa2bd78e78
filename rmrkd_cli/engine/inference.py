"""Networks that only compute: batch norm inside the convolutions, the fastest memory format and kernels."""

from __future__ import annotations

import copy

from torch import nn

from rmrkd_cli.losses._winograd import FrozenConv, is_worth_it
from rmrkd_cli.memory_format import fastest_format
from rmrkd_cli.models import fold_batch_norm


def inference_network(network: nn.Module, device_type: str) -> nn.Module:
    """A copy for inference on a device of this kind; where the network itself is, and equal to it up to rounding."""
    ready = fold_batch_norm(copy.deepcopy(network).requires_grad_(False).eval())
    ready.to(memory_format=fastest_format(ready, device_type))
    if device_type == "cpu":
        for parent in list(ready.modules()):
            for name, layer in parent.named_children():
                if is_worth_it(layer):
                    assert isinstance(layer, nn.Conv2d)
                    setattr(parent, name, FrozenConv(layer))
    return ready.eval()
