"""CIRKDv2 against the plain forms of its parts, all behind one attention block."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rmrkd_cli.distillation.factory import build_losses
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import CIRKDChannelLoss, CIRKDMemoryLoss, CIRKDv2Loss, cirkdv2
from rmrkd_cli.losses._projector import ContextBlock
from rmrkd_cli.networks.feature_maps import FeatureShapes
from rmrkd_cli.presets.fields import AUTO, MAPS
from rmrkd_cli.presets.loader import load_preset
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive_relations import naive_cirkdv2, naive_context

SIZE = (6, 9)
SMALL = {"pixel_queue": 40, "region_queue": 6, "channel_queue": 256}
WEIGHTS = {
    "fitnet_weight": 3.0, "batch_pixel_weight": 0.5, "memory_pixel_weight": 0.7, "memory_region_weight": 0.2,
    "batch_channel_weight": 2.0, "memory_channel_weight": 0.4, "channel_mse_weight": 5.0,
}  # fmt: skip


def make(channels: tuple[int, int] = (4, 4), **options: Any) -> CIRKDv2Loss:
    torch.manual_seed(0)
    return CIRKDv2Loss(*channels, K, SIZE, **{**SMALL, **options})


@pytest.mark.parametrize("weights", [{}, WEIGHTS, *({**dict.fromkeys(WEIGHTS, 0.0), name: 1.0} for name in WEIGHTS)])
@pytest.mark.parametrize("channels", [(4, 4), (3, 6)])
def test_equals_the_plain_form(channels: tuple[int, int], weights: dict[str, float]) -> None:
    student, teacher, labels = sample(1, channels, SIZE)
    loss = make(channels, **weights).eval()
    plain = copy.deepcopy(loss).double()
    leaf, ours = student.double().requires_grad_(), student.clone().requires_grad_()
    expected, value = naive_cirkdv2(plain, leaf, teacher.double(), labels), loss(ours, teacher, labels)
    assert error(value.detach(), expected.detach()) <= 1e-5
    gradients = (
        torch.autograd.grad(total, [maps, *each.parameters()], allow_unused=True, materialize_grads=True)
        for total, maps, each in ((value, ours, loss), (expected, leaf, plain))
    )
    for got, want in zip(*gradients, strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm() + 1e-6


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels", [1, 6, 7])
def test_the_block_equals_its_whole_matrix(channels: int, training: bool) -> None:
    torch.manual_seed(0)
    block = ContextBlock(channels).double().train(training)
    maps = torch.randn(2, channels, 5, 7, dtype=torch.float64, requires_grad=True)
    got, want = block(maps), naive_context(copy.deepcopy(block), maps)
    assert got.shape == maps.shape
    assert error(got.detach(), want.detach()) <= 1e-12
    weights = torch.randn_like(got)
    ours, theirs = (torch.autograd.grad((each * weights).sum(), maps)[0] for each in (got, want))
    assert error(ours, theirs) <= 1e-9


def test_every_position_reaches_every_other() -> None:
    torch.manual_seed(0)
    block = ContextBlock(8).eval()
    maps = torch.randn(1, 8, 4, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(block(maps)[0, :, 0, 0].sum(), maps)
    assert grad.abs().sum(1).all()


def test_only_large_maps_are_averaged_before_pixels_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, labels = sample(2, size=SIZE)
    others = {**dict.fromkeys(WEIGHTS, 0.0), "batch_pixel_weight": 1.0}
    loss = make(**others).eval()
    plain = loss(student, teacher, labels)
    monkeypatch.setattr(cirkdv2, "_LARGE", 6)
    got = loss(student, teacher, labels)
    maps = (F.avg_pool2d(x, 4, ceil_mode=True) for x in (loss.context(student), teacher))
    assert error(got, loss.batch_pixels(*maps)) <= 1e-6
    assert error(got, plain) > 1e-3


def test_a_resumed_loss_goes_on_alike() -> None:
    loss = make()
    for seed in range(3):
        loss(*sample(seed, size=SIZE))
    torch.manual_seed(99)
    resumed = CIRKDv2Loss(4, 4, K, SIZE, **SMALL)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    one, two = (value_and_grad(each, *sample(5, size=SIZE)) for each in (loss, resumed))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    for name, value in loss.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_everything_learns_and_nothing_of_the_teacher() -> None:
    student, teacher, labels = (x.requires_grad_(x.is_floating_point()) for x in sample(0, (4, 6), SIZE))
    loss = make((4, 6))
    loss(student, teacher, labels).backward()
    assert all(x.grad.any() for x in (student, *loss.parameters()))
    assert teacher.grad is None
    assert {name.split(".")[0] for name, _ in loss.named_parameters()} == {
        "context", "fitnet", "memory", "channel_relations",
    }  # fmt: skip


def test_all_ignored_leaves_the_parts_that_need_no_labels() -> None:
    student, teacher, labels = sample(size=SIZE)
    got = value_and_grad(make(), student, teacher, 0 * labels + 255)
    without = {"memory_pixel_weight": 0.0, "memory_region_weight": 0.0}
    want = value_and_grad(make(**without), student, teacher, labels)
    assert max(error(a, b) for a, b in zip(got, want, strict=True)) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_give_the_float32_value_of_the_rounded_numbers(dtype: torch.dtype) -> None:
    student, teacher, labels = sample(0, (3, 5), SIZE)
    student, teacher = student.to(dtype), teacher.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(make((3, 5)), student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, make((3, 5))(student.float(), teacher.float(), labels))
    assert grad.isfinite().all()


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e4])
def test_features_of_extreme_size_stay_finite(scale: float) -> None:
    student, teacher, labels = sample(3, size=SIZE)
    value, grad = value_and_grad(make(), scale * student, scale * teacher, labels)
    assert value.isfinite()
    assert grad.isfinite().all()


def test_memory_layouts() -> None:
    student, teacher, labels = sample(4, (3, 5), SIZE)
    want = value_and_grad(make((3, 5)).eval(), student, teacher, labels)
    last = [x.contiguous(memory_format=torch.channels_last) for x in (student, teacher, labels)]
    turned = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (student, teacher, labels)]
    for layout in (last, turned):
        got = value_and_grad(make((3, 5)).eval(), *layout)
        assert max(error(a, b) for a, b in zip(got, want, strict=True)) <= 1e-5


@pytest.mark.parametrize(("crop", "positions"), [((512, 1024), 16 * 32), ((481, 641), 16 * 21)])
def test_the_memory_fits_the_crop_of_the_preset(crop: tuple[int, int], positions: int) -> None:
    preset = load_preset("psp101-psp18-city", method="cirkdv2", overrides=[f"schedule.crop={list(crop)}"])
    shapes = FeatureShapes(dict.fromkeys(MAPS, 16), dict.fromkeys(MAPS, 8))
    loss = build_losses(preset, shapes, shapes, 19, outline=True)["cirkdv2"]
    assert loss.state_dict()["channel_relations.bank.channels.vectors"].shape == (1, 10_000, positions)


def test_another_crop_and_unknown_choices_are_errors() -> None:
    student, teacher, labels = sample(size=(6, 8))
    with pytest.raises(RmrkdError, match="stores channels of maps of 6x9 positions, got 6x8"):
        make()(student, teacher, labels)
    with pytest.raises(RmrkdError, match="enqueue must be one of class, released, got `all`"):
        make(enqueue="all")


def test_a_short_queue_limits_what_is_stored_at_once() -> None:
    """Its class has no option for that number, which its parts refuse above their queue."""
    loss = make(pixel_queue=5, region_queue=1, channel_queue=3)
    assert (loss.memory.bank.pushed, loss.channel_relations.bank.pushed) == (5, 3)
    before = loss.channel_relations.bank.channels.vectors.clone()
    assert loss(*sample(size=SIZE)).isfinite()
    assert not torch.equal(loss.channel_relations.bank.channels.vectors, before)


def test_long_queues_store_what_the_parts_store_alone() -> None:
    loss, options = make(pixel_queue=20_000, channel_queue=10_000), {"student_channels": 4, "teacher_channels": 4}
    alone = CIRKDMemoryLoss(**options, num_classes=K), CIRKDChannelLoss(**options, map_size=SIZE)
    for part, other in zip((loss.memory, loss.channel_relations), alone, strict=True):
        assert part.bank.pushed == other.bank.pushed


def test_weights_are_those_of_the_scripts() -> None:
    for preset, weight in (("psp101-psp18-city", 1.0), ("psp101-psp18-voc12aug", 1.0), ("demo", AUTO)):
        losses = load_preset(preset, method="cirkdv2").losses
        assert {name: (spec.weight, spec.stage) for name, spec in losses.items()} == {
            "kd": (weight, "logits"), "cirkdv2": (weight, "head"),
        }  # fmt: skip
