"""Attention in losses: where it keeps the matrix of pairs of positions, and that a run that must repeat does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rmrkd_cli.losses import GKDLoss
from rmrkd_cli.losses._discriminator import SelfAttention
from rmrkd_cli.losses._functional import attend
from rmrkd_cli.losses._projector import ContextBlock

C, SIDE = 8, 12
MODULES: dict[str, Callable[[], nn.Module]] = {
    "gkd": lambda: GKDLoss(C, C),
    "cirkdv2": lambda: ContextBlock(C),
    "skd-gan": lambda: SelfAttention(C),
}


@pytest.fixture(params=[False, True], ids=["may differ", "deterministic"])
def deterministic(request: pytest.FixtureRequest) -> Iterator[bool]:
    torch.use_deterministic_algorithms(request.param, warn_only=True)
    yield request.param
    torch.use_deterministic_algorithms(False)


def call(name: str, device: str = "cpu", layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Return a scalar of random maps (2, C, SIDE, SIDE)."""
    torch.manual_seed(0)
    with torch.device(device):
        maps, module = torch.randn(2, C, SIDE, SIDE), MODULES[name]()
    maps = maps.contiguous(memory_format=layout).requires_grad_()
    value: Tensor = module(maps, maps.detach().sin()) if name == "gkd" else module(maps).sum()
    return value


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_a_gpu_has_no_fused_kernel_where_runs_must_repeat(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str, deterministic: bool
) -> None:
    attend, allowed = F.scaled_dot_product_attention, []

    def watched(*rows: Tensor, scale: float | None) -> Tensor:
        allowed.append(torch.backends.cuda.mem_efficient_sdp_enabled())
        return attend(*rows, scale=scale)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    with FakeTensorMode():  # a GPU without values
        assert call(name, device).device.type == device
    assert allowed == [not (device == "cuda" and deterministic)]


class Largest(TorchDispatchMode):
    """Records the most values of any tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else [result]
        self.values = max(self.values, *(each.numel() for each in made if isinstance(each, Tensor)), 0)
        return result


@pytest.mark.parametrize(("name", "keeps"), [("gkd", False), ("cirkdv2", False), ("skd-gan", True)])
def test_on_a_cpu_the_matrix_of_pairs_is_kept_for_values_of_other_channels_alone(
    name: str, keeps: bool, deterministic: bool
) -> None:
    """Of channels-last maps, whose rows have adjacent channels."""
    with Largest() as largest:
        call(name, layout=torch.channels_last).backward()
    assert (largest.values >= 2 * SIDE**4) == keeps


def test_the_kernel_of_a_cpu_repeats_with_any_number_of_threads() -> None:
    torch.manual_seed(0)
    rows = [torch.randn(3, 1, 700, 16, requires_grad=True) for _ in range(3)]
    slope, before, results = torch.randn(3, 1, 700, 16), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            mixed = attend(*rows)
            results.append([mixed.detach(), *torch.autograd.grad(mixed, rows, slope)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
