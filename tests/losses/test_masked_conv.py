from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rmrkd_cli.losses import MGDLoss, mgd
from rmrkd_cli.losses._masked_conv import convolve_kept


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("height", "width", "share"), [(5, 8, 0.3), (1, 1, 1.0), (1, 7, 0.5), (6, 3, 1.0), (4, 4, 0.0)]
)
def test_leaving_hidden_positions_out_changes_nothing(
    layout: torch.memory_format, height: int, width: int, share: float
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, padding=1).double().to(memory_format=layout)
    keep = torch.rand(3, height, width) < share
    features = torch.randn(3, 6, height, width, dtype=torch.float64, requires_grad=True)
    up = torch.randn(3, 4, height, width, dtype=torch.float64)
    results = []
    for sparse in (True, False):
        conv.zero_grad()
        features.grad = None
        masked = features.permute(0, 2, 3, 1)[keep] if sparse else features * keep.unsqueeze(1)
        out = convolve_kept(masked, keep, conv) if sparse else conv(masked)
        out.backward(up)
        results.append((out.detach(), features.grad, conv.weight.grad, conv.bias.grad))
    for ours, dense in zip(*results, strict=True):
        assert torch.allclose(ours, dense, rtol=1e-12, atol=1e-12)
    assert results[0][2].stride() == conv.weight.stride()


def test_its_gradients_are_right_numerically() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1).double()
    keep = torch.tensor([[[True, False, True], [False, True, False]]])
    rows = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def convolve(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        stand_in = SimpleNamespace(weight=weight, bias=bias)
        return convolve_kept(rows, keep, stand_in)  # type: ignore[arg-type]

    weight, bias = conv.weight.detach().requires_grad_(), conv.bias.detach().requires_grad_()
    assert torch.autograd.gradcheck(convolve, (rows, weight, bias))


@pytest.mark.parametrize(("student", "teacher"), [(3, 5), (4, 4)])
def test_mgd_is_the_same_either_way(monkeypatch: pytest.MonkeyPatch, student: int, teacher: int) -> None:
    torch.manual_seed(0)
    loss = MGDLoss(student, teacher)
    target, keep = torch.randn(2, teacher, 7, 9), (torch.rand(2, 1, 7, 9) < 0.25).float()
    results = []
    for worth_it in (0.5, 2.0):
        monkeypatch.setattr(mgd, "_SPARSE_FROM", worth_it)
        source = torch.randn(2, student, 7, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss.zero_grad()
        value = loss(source, target, keep_mask=keep)
        value.backward()
        results.append([value.detach(), source.grad, *(parameter.grad for parameter in loss.parameters())])
    for sparse, dense in zip(*results, strict=True):
        assert (sparse - dense).norm() <= 1e-5 * dense.norm()
