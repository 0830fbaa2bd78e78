from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rmrkd_cli.networks.mmseg import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.determinism import MatrixPool2d, replace_adaptive_pooling


@given(
    height=st.integers(1, 20), width=st.integers(1, 20), rows=st.integers(1, 24), columns=st.integers(1, 24),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_matrix_pooling_equals_adaptive_pooling(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
    pooled, expected = MatrixPool2d((rows, columns))(features), F.adaptive_avg_pool2d(features, (rows, columns))
    assert torch.allclose(pooled, expected, rtol=1e-12, atol=1e-14)
    weight = torch.randn(pooled.shape, generator=generator, dtype=torch.float64)
    gradient, expected_gradient = (torch.autograd.grad((map * weight).sum(), features)[0] for map in (pooled, expected))
    assert torch.allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [3, (2, None)])
def test_sizes_have_torchs_meaning(size: int | tuple[int | None, int | None]) -> None:
    features = torch.randn(1, 2, 7, 9)
    assert torch.allclose(MatrixPool2d(size)(features), nn.AdaptiveAvgPool2d(size)(features), atol=1e-6)


def test_a_network_gives_the_same_logits_with_it(tiny: object) -> None:
    network = build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu").eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = network.encode_decode(image, None)
        keys = list(network.state_dict())
        replace_adaptive_pooling(network)
        after = network.encode_decode(image, None)
    kinds = {type(module) for module in network.modules()}
    assert MatrixPool2d in kinds
    assert nn.AdaptiveAvgPool2d not in kinds
    assert list(network.state_dict()) == keys
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5)
