"""Parameters and operations of networks that are files: those of the network in torch, or unknown."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rmrkd_cli.evaluation.flops import count_parameters_and_macs
from rmrkd_cli.networks.file_network import FileNetwork
from rmrkd_cli.networks.onnx_runner import OnnxRunner
from rmrkd_cli.networks.torchscript_runner import TorchScriptRunner
from tests.helpers.network_files import SHAPE, write_onnx, write_torchscript

WIDTH, HEIGHT = 64, 48


class Net(nn.Module):
    """Convolutions of all kinds, matrix products, and a size that is computed in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2)
        self.linear = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.up(self.depthwise(self.first(images)))
        maps = nn.functional.interpolate(maps, (images.shape[2] // 2, images.shape[3] // 2))
        flat = maps.flatten(2)
        attention = flat @ flat.transpose(1, 2)
        mixed = (attention @ flat).reshape(maps.shape)
        logits: Tensor = self.linear(mixed.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return logits


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def count(runner: OnnxRunner | TorchScriptRunner) -> dict[str, int]:
    return count_parameters_and_macs(FileNetwork(runner), (WIDTH, HEIGHT))


@pytest.mark.filterwarnings("ignore")
def test_operations_of_files_are_those_of_the_network(net: Net, tmp_path: Path) -> None:
    """Also of a file of a fixed batch size, and of a frozen program, whose weights are constants."""
    image = torch.zeros(1, 3, HEIGHT, WIDTH)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    macs, parameters = counter.get_total_flops() // 2, sum(each.numel() for each in net.parameters())
    folded = parameters - 2 * 8  # batch norm becomes a part of the convolution
    traced = torch.jit.trace(net, image)
    for number, (module, size) in enumerate([(traced, parameters), (torch.jit.freeze(traced), folded)]):
        torch.jit.save(module, str(tmp_path / f"{number}.pt"))
        assert count(TorchScriptRunner(tmp_path / f"{number}.pt")) == {"parameters": size, "macs": macs}
    for batch, axes in ((1, {"image": {2: "h", 3: "w"}}), (2, None)):
        path = tmp_path / f"{batch}.onnx"
        torch.onnx.export(
            net, (image.expand(batch, -1, -1, -1),), path, dynamo=False, input_names=["image"], dynamic_axes=axes
        )
        assert count(OnnxRunner(path)) == {"parameters": folded, "macs": macs}


def test_what_is_unknown_is_missing(tmp_path: Path) -> None:
    """An operator without a rule, and a program without weights."""
    einsum = helper.make_node("Einsum", ["logits"], ["out"], equation="nchw->nchw")
    file = write_onnx(tmp_path / "x.onnx", after=[einsum], output=("out", 1, ("n2", 4, "h2", "w2")))
    assert count(OnnxRunner(file)) == {"parameters": 3 * 4}
    last = write_onnx(tmp_path / "last.onnx", shape=(SHAPE[0], *SHAPE[2:], 3))
    assert count(OnnxRunner(last)) == {"parameters": 3 * 4, "macs": 3 * 4 * WIDTH * HEIGHT}

    class Double(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.float() + image.float()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert count(TorchScriptRunner(write_torchscript(tmp_path / "x.pt", Double()))) == {}
