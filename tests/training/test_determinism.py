from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rmrkd_cli.losses import PSDLoss
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training import deterministic_resize
from rmrkd_cli.training.deterministic_resize import pool_average, resize_bilinear

SIDES = st.tuples(*[st.integers(1, 24)] * 4)


def assert_equal(maps: Tensor, got: Tensor, expected: Tensor, seed: int) -> None:
    """The values are torch's own; the gradients agree to rounding."""
    assert torch.equal(got, expected)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(seed), dtype=got.dtype)
    gradient, expected_gradient = (torch.autograd.grad((out * weight).sum(), maps)[0] for out in (got, expected))
    assert torch.allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


def draw(seed: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64, requires_grad=True)


@given(sides=SIDES, align_corners=st.booleans(), seed=st.integers(0, 2**31))
def test_bilinear_resizing_equals_torchs(sides: tuple[int, ...], align_corners: bool, seed: int) -> None:
    maps = draw(seed, *sides[:2])
    expected = F.interpolate(maps, sides[2:], mode="bilinear", align_corners=align_corners)
    assert_equal(maps, resize_bilinear(maps, sides[2:], align_corners), expected, seed)


@given(sides=SIDES, seed=st.integers(0, 2**31))
def test_pooling_equals_torchs(sides: tuple[int, ...], seed: int) -> None:
    maps = draw(seed, *sides[:2])
    assert_equal(maps, pool_average(maps, sides[2:]), F.adaptive_avg_pool2d(maps, sides[2:]), seed)


def test_half_precision_keeps_its_type_and_sums_in_float32() -> None:
    maps = torch.randn(1, 2, 8, 8)
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        leaf = maps.to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(resize_bilinear(leaf, (64, 64)).sum(), leaf)
        assert gradient.dtype == dtype
        gradients.append(gradient.float())
    assert torch.equal(gradients[0], gradients[1].bfloat16().float())


def test_networks_losses_and_layers_use_them(tiny: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here on a CPU, which needs neither."""
    network = build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu").eval()
    image = torch.randn(1, 3, 64, 96)
    expected = network.encode_decode(image, None)
    expected_gradients = torch.autograd.grad(expected.sum(), list(network.backbone.parameters()))
    for name in ("interpolate", "adaptive_avg_pool2d"):
        monkeypatch.setattr(F, name, getattr(F, name))  # restores it
    deterministic_resize.replace_functions()
    deterministic_resize.replace_functions()  # once is enough
    called: list[str] = []
    for name in ("resize_bilinear", "pool_average"):
        original = getattr(deterministic_resize, name)
        monkeypatch.setattr(
            deterministic_resize, name, lambda *args, o=original, n=name: (called.append(n), o(*args))[1]
        )
    assert torch.equal(network.encode_decode(image, None), expected)
    assert called == []  # no GPU
    monkeypatch.setattr(deterministic_resize, "_applies_to", lambda maps: maps.dim() == 4)
    got = network.encode_decode(image, None)
    assert torch.equal(got, expected)
    gradients = torch.autograd.grad(got.sum(), list(network.backbone.parameters()))
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
    assert set(called) == {"resize_bilinear", "pool_average"}
    called.clear()
    for size in (3, (2, None)):
        maps = torch.randn(1, 2, 7, 9)
        pooled = nn.AdaptiveAvgPool2d(size)(maps)
        assert pooled.shape[2:] == ((3, 3) if size == 3 else (2, 9))
    assert called == ["pool_average"] * 2
    maps = [torch.randn(1, 2, side, side) for side in (8, 6)]
    PSDLoss((2, 2), (2, 2))(tuple(maps), tuple(each.flip(1) for each in maps))
    assert called == ["pool_average"] * 6
    called.clear()
    labels = torch.randint(0, 9, (1, 1, 8, 8)).float()
    F.interpolate(labels, (4, 4), mode="nearest")
    assert called == []
