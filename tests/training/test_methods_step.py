"""Every method on `demo`: build it, compute its weights, train two steps, and one step without any label."""

from __future__ import annotations

import math

import pytest
import torch

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import method_names
from rmrkd_cli.training.loss_weights import auto_weighted_losses, compute_auto_weights
from rmrkd_cli.training.optimizer_step import TrainStep

CLASSES = 8
DIST_CTX = DistContext(0, 1, torch.device("cpu"))


def batch(number: int, labels: torch.Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(number)
    if labels is None:
        labels = torch.randint(0, CLASSES, (2, 1, 96, 96), generator=generator)
        labels[:, :, :8] = 255
    return Batch(torch.randn(2, 3, 96, 96, generator=generator), labels, [])


@pytest.mark.parametrize("method", method_names())
def test_a_method_trains(method: str) -> None:
    preset = load_preset("demo", method=method)
    built = build_distiller(preset, "distill", CLASSES, device="cpu", log=lambda _: None, with_weights=False)
    model = built.distiller.to_device("cpu")
    assert model.teacher is not None
    names, batches = auto_weighted_losses(preset), [batch(0), batch(1)]
    model.weights |= compute_auto_weights(model, batches, names, preset.schedule, 0, DIST_CTX)
    assert all(0 < model.weights[name] < math.inf for name in preset.losses)
    model.train()
    before = {key: value.clone() for key, value in (*model.named_parameters(), *model.teacher.named_parameters())}
    teacher = [value.clone() for value in model.teacher.state_dict().values()]
    step = TrainStep(model, model, preset.schedule, DIST_CTX.device)
    for number, each in enumerate(batches):
        named = step([each], number)
        assert {"ce", "aux_ce", *preset.losses} <= named.keys()
        assert all(math.isfinite(value) for value in named.values())
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert [key for key, parameter in trained.items() if parameter.grad is None] == []
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert all(
        torch.equal(value, kept) for value, kept in zip(model.teacher.state_dict().values(), teacher, strict=True)
    )
    changed = [key for key, parameter in trained.items() if not torch.equal(parameter, before[key])]
    assert any(key.startswith("student.backbone") for key in changed)
    named = step([batch(2, torch.full((2, 1, 96, 96), 255))], 2)  # without a label
    assert all(math.isfinite(value) for value in named.values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
