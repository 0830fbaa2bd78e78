"""Prepare networks for inference: batch norm folded into convolutions, the fastest memory format and kernels."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import compute_logits
from rmrkd_cli.networks.memory_format import fastest_format
from rmrkd_cli.networks.mmseg import fold_batch_norm
from rmrkd_cli.networks.winograd import FrozenConv, is_worth_it

_PROBE_SHAPE = (1, 3, 64, 64)  # of the image on which two networks are compared
_TOLERANCE = 1e-2  # relative difference of the logits; a wrong fold gives far more, TF32 on a GPU far less


def inference_network(network: nn.Module, device_type: str) -> nn.Module:
    """Return a copy for inference on this kind of device, equal to the network up to rounding, on its device."""
    plain = copy.deepcopy(network).eval()
    if adapter_of(plain).only_logits:  # a file: its runtime has prepared it
        return plain
    if adapter_of(plain).only_features:  # it has no batch norm
        return plain.requires_grad_(False)
    ready = folded_copy(plain)
    ready.to(memory_format=fastest_format(ready, device_type))
    if device_type == "cpu":
        for parent in list(ready.modules()):
            for name, layer in parent.named_children():
                if is_worth_it(layer):
                    assert isinstance(layer, nn.Conv2d)
                    setattr(parent, name, FrozenConv(layer))
    return ready.eval().requires_grad_(False)


def folded_copy(plain: nn.Module) -> nn.Module:
    """Return a copy with batch norm folded into the convolutions, of a network in eval mode.

    Where folding changes the results, return the network itself: mmcv folds in the order in which layers were built,
    and not every network uses them in that order.
    """
    try:
        folded = fold_batch_norm(copy.deepcopy(plain))
    except RuntimeError:  # the batch norm has other channels than the convolution built before it
        return plain
    return folded if _have_equal_logits(plain, folded) else plain


@torch.no_grad()
def _have_equal_logits(first: nn.Module, second: nn.Module) -> bool:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(_PROBE_SHAPE, generator=generator).to(next(first.parameters()).device)
    expected, got = (compute_logits(network, image) for network in (first, second))
    return bool((got - expected).norm() <= _TOLERANCE * expected.norm())
