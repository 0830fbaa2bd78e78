from __future__ import annotations

import pytest
import torch
from torch import nn

from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.evaluation.evaluator import evaluate
from rmrkd_cli.networks import winograd
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.networks.winograd import FrozenConv
from rmrkd_cli.presets.loader import load_preset


def lively(preset: str) -> nn.Module:
    """A preset's student with batch-norm statistics that matter."""
    resolved = load_preset(preset)
    torch.manual_seed(0)
    network = build_network(network_config(resolved.student, 8), device="cpu")
    network.train()
    with torch.no_grad():
        network.encode_decode(torch.randn(2, 3, 64, 64), None)  # type: ignore[operator]
    return network.eval()


@pytest.mark.parametrize("preset", ["demo", "dlp18w32-dlpmbv2x025-camvid"])
def test_inference_network_gives_equal_logits(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_MIN_CHANNELS", 8)
    network = lively(preset)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ready = inference_network(network.train(), "cpu")
    image = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        got, want = (net.encode_decode(image, None) for net in (ready, network.eval()))  # type: ignore[operator]
    assert (got - want).norm() <= 1e-5 * want.norm()
    layers = list(ready.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    assert any(isinstance(layer, FrozenConv) for layer in layers)
    assert not any(layer.training for layer in layers)
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Crossed(nn.Module):
    """Two convolutions and their batch norms, used in another order than built, as in some of mmseg's backbones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, channels, 1)
        self.of_second, self.of_first = nn.BatchNorm2d(channels), nn.BatchNorm2d(4)

    def extract_feat(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.of_first(self.first(image)), self.of_second(self.second(image).relu())]

    def decode_head(self, features: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(features, 1)


@pytest.mark.parametrize("channels", [4, 6])
def test_a_network_that_cannot_be_folded_is_unchanged(channels: int) -> None:
    torch.manual_seed(0)
    network = Crossed(channels)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
    image = torch.randn(1, 3, 8, 8)
    ready = inference_network(network, "cpu")
    network.eval()
    got, want = (net.decode_head(net.extract_feat(image)) for net in (ready, network))
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-6)


def test_evaluation_with_the_inference_network_counts_the_same() -> None:
    preset = load_preset("demo")
    network = lively("demo")
    info = dataset_info(preset)
    dataset = EvalSet(info, find_samples(info, "val")[:6])
    fast = evaluate(network, dataset, DistContext(0, 1, torch.device("cpu")))
    plain = ConfusionMatrix(info.num_classes)
    for item in (dataset[index] for index in range(6)):
        (image, meta), *_ = item.views
        with torch.no_grad():
            plain.update(network.inference(image, [meta], True).argmax(1)[0], item.labels)  # type: ignore[operator]
    assert fast.matrix.sum() == plain.matrix.sum()
    moved = (fast.matrix - plain.matrix).abs().sum() // 2  # pixels whose two best classes agree but for rounding
    assert moved <= 1e-4 * plain.matrix.sum()
