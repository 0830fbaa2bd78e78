"""Cast the weights of a frozen network once, which autocast would cast at every call."""

from __future__ import annotations

import torch
from torch import nn

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_WRAPPERS = "mmcv.cnn.bricks.wrappers"  # subclasses that only allow empty inputs


def cast_for_autocast(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of convolutions and linear layers in place; values under autocast to `dtype` stay the same.

    Autocast keeps casts of weights that are trained only. Layers that compute with their weights by themselves, such
    as weight standardisation, and all other layers keep float32, as under autocast.
    """
    for module in network.modules():
        if type(module) in _LAYERS or (isinstance(module, _LAYERS) and type(module).__module__ == _WRAPPERS):
            module.to(dtype)
