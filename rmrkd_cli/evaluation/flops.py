"""Parameters and multiply-accumulate operations of a network."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import segment
from rmrkd_cli.networks.file_network import FileNetwork


def count_parameters_and_macs(network: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Return `parameters`, and `macs` for one image of (width, height).

    The operations are counted on the meta device: nothing is computed. Those of an ONNX file come from its graph, those
    of a TorchScript file from one run. Either number is missing where it is unknown.
    """
    if isinstance(network, FileNetwork):
        counted = {"parameters": network.runner.parameters, "macs": network.count_macs(size)}
        return {name: number for name, number in counted.items() if number}
    meta_network = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(1, 3, size[1], size[0], device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if adapter_of(meta_network).only_features:
            adapter_of(meta_network).maps(meta_network, image)
        else:
            segment(meta_network, image)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": counter.get_total_flops() // 2,
    }
