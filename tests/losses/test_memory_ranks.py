"""The memories of `cirkd_memory` and `cirkd_channel` in two processes over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.losses._memory_bank import _all_gather
from tests.helpers.forked import run_ranks
from tests.losses import bank_ranks
from tests.losses.common import error

RankResult = dict[str, Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[RankResult]:
    """What each process saved."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(bank_ranks.main, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_both_processes_hold_the_same_memory_after_other_classes_in_each(results: list[RankResult]) -> None:
    one, two = (each["before"] for each in results)
    names = [name for name in one if name.startswith("bank.")]
    assert len(names) == 5
    for name in names:
        assert torch.equal(one[name], two[name]), name
    assert int(one["bank.passes"]) == bank_ranks.STEPS


def test_it_is_what_one_process_with_all_images_remembers(results: list[RankResult]) -> None:
    alone = bank_ranks.make()
    for step in range(bank_ranks.STEPS):
        alone(*(torch.cat(parts) for parts in zip(*(bank_ranks.batch(step, rank) for rank in (0, 1)), strict=True)))
    want, got = alone.bank, results[0]["before"]
    assert error(got["bank.regions.vectors"], want.regions.vectors) <= 1e-6
    for name, queue in (("pixels", want.pixels), ("regions", want.regions)):
        assert torch.equal(got[f"bank.{name}.next_slot"], queue.next_slot)
    changed = got["bank.pixels.vectors"] != bank_ranks.make().bank.pixels.vectors
    assert torch.equal(changed.any(2).sum(1), want.pixels.next_slot)


def test_channels_are_those_that_one_process_with_all_images_remembers(results: list[RankResult]) -> None:
    alone = bank_ranks.make_channels()
    for step in range(bank_ranks.STEPS):
        parts = (bank_ranks.batch(step, rank)[:2] for rank in (0, 1))
        alone(*(torch.cat(maps) for maps in zip(*parts, strict=True)))
    assert int(alone.bank.passes) == bank_ranks.STEPS
    for name, want in alone.bank.state_dict().items():
        assert all(torch.equal(each["channels"][name], want) for each in results), name


def test_channels_of_channels_last_maps_are_the_same(results: list[RankResult]) -> None:
    for each in results:
        for name, want in each["channels"].items():
            torch.testing.assert_close(each["channels last"][name], want, rtol=1e-6, atol=1e-6, msg=name)


def test_no_backend_mixes_up_channels_last_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """gloo copies values; here, one that copies memory as it lies."""

    def all_gather(parts: list[Tensor], tensor: Tensor) -> None:
        for part in parts:
            part.as_strided((part.numel(),), (1,)).copy_(tensor.as_strided((tensor.numel(),), (1,)))

    monkeypatch.setattr("rmrkd_cli.losses._memory_bank._is_distributed", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    units = torch.randn(2, 3, 5).mT.contiguous().mT
    assert torch.equal(_all_gather(units), torch.cat([units, units]))


def test_a_resumed_run_continues_alike(results: list[RankResult]) -> None:
    for each in results:
        assert torch.equal(each["again"][0], each["values"][-1])
        for name, value in each["end"].items():
            assert torch.equal(value, each["resumed"][name]), name


def test_every_parameter_learns_also_beside_a_process_that_sees_no_class(results: list[RankResult]) -> None:
    assert results[1]["values"][1] == 0 < results[0]["values"][1]
    for one, two in zip(results[0]["gradients"], results[1]["gradients"], strict=True):
        assert torch.equal(one, two)
        assert one.any()


def test_the_memory_is_not_sent_before_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"student": nn.BatchNorm2d(2), "losses": nn.ModuleDict({"memory": bank_ranks.make()})})
    wrapped: list[nn.Module] = []
    monkeypatch.setattr(
        "rmrkd_cli.distributed.process_group.DistributedDataParallel.__init__",
        lambda self, module, **_: wrapped.append(module),
    )
    DistContext(0, 2, torch.device("cpu")).wrap_ddp(model)
    ignored = set(wrapped[0]._ddp_params_and_buffers_to_ignore)  # type: ignore[arg-type]
    sent = {name for name, _ in model.named_buffers()} - ignored
    assert ignored <= {name for name, _ in model.named_buffers()}
    norms = ("student", "losses.memory.projector.1")
    assert sent == {f"{x}.{y}" for x in norms for y in ("running_mean", "running_var", "num_batches_tracked")}
