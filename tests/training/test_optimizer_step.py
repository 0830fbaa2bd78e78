from __future__ import annotations

import copy

import pytest
import torch

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training.learning_rate import learning_rate
from rmrkd_cli.training.optimizer_step import TrainStep


def test_poly_rate_falls_from_the_first_to_the_floor() -> None:
    schedule = Schedule(iters=100, lr=0.01, min_lr=1e-4, power=0.9)
    assert learning_rate(schedule, 0) == pytest.approx(0.01)
    assert learning_rate(schedule, 50) == pytest.approx((0.01 - 1e-4) * 0.5**0.9 + 1e-4)
    assert learning_rate(schedule, 99) == pytest.approx((0.01 - 1e-4) * 0.01**0.9 + 1e-4)


def test_accumulating_two_halves_steps_as_the_whole_batch(tiny: object) -> None:
    torch.manual_seed(0)  # a network this narrow can be dead by chance
    network = build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu").eval()
    images, labels = torch.randn(4, 3, 48, 48), torch.randint(0, 11, (4, 1, 48, 48))
    whole = Batch(images, labels, [])
    halves = [Batch(images[part], labels[part], []) for part in (slice(0, 2), slice(2, 4))]
    states = []
    for batches in ([whole], halves):
        model = Distiller(copy.deepcopy(network)).to_device("cpu")
        before = {key: value.clone() for key, value in model.state_dict().items()}
        TrainStep(model, model, Schedule(accumulate=len(batches)), torch.device("cpu"))(batches, 0)
        states.append({key: value - before[key] for key, value in model.state_dict().items()})
    for key, change in states[0].items():
        assert torch.allclose(change, states[1][key], rtol=1e-3, atol=1e-7), key
    assert any(change.abs().max() > 1e-4 for change in states[0].values())


def test_clipping_bounds_the_gradient(tiny: object) -> None:
    network = build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu")
    model = Distiller(network).to_device("cpu")
    step = TrainStep(model, model, Schedule(clip_grad=1e-3, momentum=0.0, weight_decay=0.0), torch.device("cpu"))
    step([Batch(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 1, 48, 48)), [])], 0)
    norms = step.part_gradient_norms()
    assert set(norms) == {"backbone", "decode_head", "auxiliary_head"}
    assert min(norms.values()) > 1e-3  # before clipping
    norm = torch.stack([parameter.grad.norm() for parameter in step.parameters]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)
