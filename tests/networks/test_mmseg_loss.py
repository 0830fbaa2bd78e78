from __future__ import annotations

import pytest
import torch

from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.networks.mmseg_loss import head_loss
from rmrkd_cli.presets.loader import load_preset


def test_equals_the_losses_of_mmsegmentation_without_computing_accuracy(
    tiny: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu")
    from mmseg.models.decode_heads import decode_head  # importable once a network was built

    torch.manual_seed(0)
    logits = torch.randn(2, 11, 6, 6, requires_grad=True)
    labels = torch.randint(0, 11, (2, 1, 48, 48)).masked_fill(torch.rand(2, 1, 48, 48) < 0.1, 255)
    computed: list[int] = []
    accuracy = decode_head.accuracy

    def count(*args: object, **options: object) -> object:
        computed.append(1)
        return accuracy(*args, **options)

    monkeypatch.setattr(decode_head, "accuracy", count)
    for head in (network.decode_head, network.auxiliary_head):
        expected = head.losses(logits, labels)["loss_ce"]
        got = head_loss(head, logits, labels)
        assert torch.equal(got, expected)
        assert torch.equal(*(torch.autograd.grad(value, logits)[0] for value in (got, expected)))
    assert len(computed) == 2  # by the two direct calls
    assert decode_head.accuracy is count
