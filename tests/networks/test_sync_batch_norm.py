"""SyncBN without the masking of empty batches, in two processes over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.networks.sync_batch_norm import SyncBatchNorm, replace_sync_batch_norm
from rmrkd_cli.presets.loader import load_preset
from tests.helpers.forked import run_ranks
from tests.networks import sync_ranks

Results = list[dict[str, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(sync_ranks.main, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_equals_torchs_bit_for_bit(results: Results) -> None:
    for each in results:
        for name, value in each["torch"].items():
            assert torch.equal(each["ours"][name], value), name


def test_equals_batch_norm_of_all_images(results: Results) -> None:
    """Two processes whose batches have other sizes, as columns of one map."""
    norm = nn.BatchNorm2d(4)
    norm.load_state_dict(sync_ranks.layer().state_dict())
    parts = [sync_ranks.batch(rank) for rank in range(2)]
    features, gradient = (torch.cat([part[i].movedim(1, 0).flatten(1) for part in parts], 1) for i in range(2))
    leaf = features.view(1, 4, 1, -1).requires_grad_()
    norm(leaf).backward(gradient.view(1, 4, 1, -1))
    got = [each["ours"] for each in results]
    joined = torch.cat([each["features"].movedim(1, 0).flatten(1) for each in got], 1)
    torch.testing.assert_close(joined, leaf.grad[0, :, 0])
    torch.testing.assert_close(got[0]["weight"] + got[1]["weight"], norm.weight.grad)
    for each in got:
        torch.testing.assert_close(each["running_var"], norm.running_var)
        torch.testing.assert_close(each["running_mean"], norm.running_mean)


def test_every_sync_bn_of_a_network_for_gpus_is_replaced(tiny: object) -> None:
    config = network_config(load_preset(str(tiny)).student, 11)
    network = replace_sync_batch_norm(build_network(config, device="cuda"))
    norms = [module for module in network.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert norms
    assert {type(norm) for norm in norms} == {SyncBatchNorm}
    plain = build_network(config, device="cpu")
    assert network.state_dict().keys() == plain.state_dict().keys()


def test_ddp_does_not_send_its_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are equal in every process already."""
    model = nn.ModuleDict({"norm": SyncBatchNorm(2), "plain": nn.BatchNorm2d(2)})
    monkeypatch.setattr(
        "rmrkd_cli.distributed.process_group.DistributedDataParallel.__init__", lambda self, module, **_: None
    )
    DistContext(0, 2, torch.device("cpu")).wrap_ddp(model)
    ignored: Any = model._ddp_params_and_buffers_to_ignore
    assert set(ignored) == {name for name, _ in model.named_buffers() if name.startswith("norm.")}


def test_a_cumulative_average_stays_torchs() -> None:
    assert type(replace_sync_batch_norm(nn.SyncBatchNorm(4, momentum=None))) is nn.SyncBatchNorm


def test_one_process_normalises_as_batch_norm() -> None:
    ours, norm = SyncBatchNorm(4), nn.BatchNorm2d(4)
    features = torch.randn(2, 4, 5, 6)
    assert torch.equal(ours(features), norm(features))
    assert torch.equal(ours.running_var, norm.running_var)
