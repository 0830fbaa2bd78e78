"""Networks that only compute: batch norm inside the convolutions, the fastest memory format and kernels."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rmrkd_cli.networks.memory_format import fastest_format
from rmrkd_cli.networks.mmseg import fold_batch_norm, run
from rmrkd_cli.networks.winograd import FrozenConv, is_worth_it

_PROBE = (1, 3, 64, 64)  # an image that shows whether two networks are the same
_SAME = 1e-2  # relative difference of the logits; a wrong fold is far beyond, a GPU's TF32 far below


def inference_network(network: nn.Module, device_type: str) -> nn.Module:
    """A copy for inference on a device of this kind; where the network itself is, and equal to it up to rounding."""
    plain = copy.deepcopy(network).eval()
    ready = folded(plain)
    ready.to(memory_format=fastest_format(ready, device_type))
    if device_type == "cpu":
        for parent in list(ready.modules()):
            for name, layer in parent.named_children():
                if is_worth_it(layer):
                    assert isinstance(layer, nn.Conv2d)
                    setattr(parent, name, FrozenConv(layer))
    return ready.eval().requires_grad_(False)


def folded(plain: nn.Module) -> nn.Module:
    """A copy with batch norm inside the convolutions, of a network in eval mode; itself where that cannot be.

    mmcv goes by the order in which layers are built, and not every network uses them in it.
    """
    try:
        made = fold_batch_norm(copy.deepcopy(plain))
    except RuntimeError:  # a batch norm of other channels than the convolution built before it
        return plain
    return made if _agree(plain, made) else plain


@torch.no_grad()
def _agree(first: nn.Module, second: nn.Module) -> bool:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(_PROBE, generator=generator).to(next(first.parameters()).device)
    expected, got = (run(network, image)[1] for network in (first, second))
    return bool((got - expected).norm() <= _SAME * expected.norm())
