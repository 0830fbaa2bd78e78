from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rmrkd_cli.networks import winograd
from rmrkd_cli.networks.winograd import FrozenConv, convolve, is_worth_it
from tests.losses.common import error


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of output channels, and no map too small."""
    monkeypatch.setattr(winograd, "_BLOCK", 3)
    monkeypatch.setattr(winograd, "_MAX_PADDING", 1e9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("size", "dilation"), [((8, 8), 1), ((5, 7), 1), ((1, 1), 1), ((9, 13), 2), ((45, 60), 4), ((3, 20), 3)]
)
def test_equals_a_direct_convolution(size: tuple[int, int], dilation: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, padding=dilation, dilation=dilation).to(memory_format=layout)
    features = torch.randn(2, 6, *size).to(memory_format=layout).requires_grad_()
    up = torch.randn(2, 8, *size)
    out = convolve(features, conv)
    got = [out.detach(), *torch.autograd.grad(out, (features, conv.weight, conv.bias), up)]
    exact = [x.detach().double().requires_grad_() for x in (features, conv.weight, conv.bias)]
    expected = F.conv2d(*exact, padding=dilation, dilation=dilation)
    want = [expected.detach(), *torch.autograd.grad(expected, exact, up.double())]
    assert max(error(a, b) for a, b in zip(got, want, strict=True)) <= 5e-6
    with torch.inference_mode():
        assert error(FrozenConv(conv)(features), want[0]) <= 5e-6


def test_a_map_that_would_be_mostly_padding_is_convolved_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_MAX_PADDING", 1.5)
    conv = nn.Conv2d(4, 4, 3, padding=36, dilation=36)
    features = torch.randn(1, 4, 64, 64)
    assert torch.equal(convolve(features, conv), conv(features))
    assert torch.equal(FrozenConv(conv)(features), conv(features))


def test_other_precisions_are_convolved_directly() -> None:
    conv, features = nn.Conv2d(4, 4, 3, padding=1).double(), torch.randn(1, 4, 8, 8).double()
    assert torch.equal(convolve(features, conv), conv(features))
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(features.float(), conv.float()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"padding": 1}, True),
        ({"padding": 4, "dilation": 4}, True),
        ({"padding": 1, "bias": False}, True),
        ({"padding": 1, "stride": 2}, False),
        ({"padding": 0}, False),
        ({"padding": 2, "dilation": 4}, False),
        ({"padding": 1, "groups": 2}, False),
        ({"padding": 1, "padding_mode": "circular"}, False),
        ({"padding": (1, 2), "dilation": (1, 2)}, False),
    ],
)
def test_which_layers(options: dict[str, object], expected: bool) -> None:
    assert is_worth_it(nn.Conv2d(512, 512, 3, **options)) is expected  # type: ignore[arg-type]


def test_narrow_or_small_kernels_are_left_alone() -> None:
    assert not is_worth_it(nn.Conv2d(1024, 128, 3, padding=1))
    assert not is_worth_it(nn.Conv2d(512, 512, 1))
    assert not is_worth_it(nn.ReLU())
