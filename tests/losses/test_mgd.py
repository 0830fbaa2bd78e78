from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import MGDLoss
from tests.losses.common import error


def sample(channels: tuple[int, int] = (4, 4)) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher, and a mask that hides some positions."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, c, 5, 6, generator=generator) for c in channels)
    return student, teacher, (torch.rand(2, 1, 5, 6, generator=generator) < 0.4).float()


def build(channels: tuple[int, int] = (4, 4), mask_ratio: float = 0.75) -> MGDLoss:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MGDLoss(*channels, mask_ratio=mask_ratio)


def with_identity_generator(mask_ratio: float = 0.75) -> MGDLoss:
    loss = build(mask_ratio=mask_ratio)
    for layer in (loss.generation[0], loss.generation[2]):
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)
    return loss


def convolve(features: Tensor, layer: nn.Conv2d) -> Tensor:
    """A 3x3 convolution with zero padding as a sum over its nine taps."""
    height, width = features.shape[2:]
    padded = F.pad(features, (1, 1, 1, 1))
    taps = [(i, j) for i in range(3) for j in range(3)]
    parts = [
        torch.einsum("dc,bchw->bdhw", layer.weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i, j in taps
    ]
    return sum(parts) + layer.bias[:, None, None]


def naive(loss: MGDLoss, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    first, second = loss.generation[0], loss.generation[2]
    generated = convolve(convolve(mask * loss.align(student), first).clamp(min=0), second)
    return sum((z - t).square().sum() for z, t in zip(generated, teacher, strict=True)) / len(student)


@pytest.mark.parametrize("channels", [(4, 4), (3, 5)])
def test_equals_the_formula(channels: tuple[int, int]) -> None:
    student, teacher, mask = sample(channels)
    loss, leaf = build(channels), student.clone().requires_grad_()
    value = loss(leaf, teacher, keep_mask=mask)
    grad = torch.autograd.grad(value, leaf)[0]
    leaf = student.double().requires_grad_()
    expected = naive(loss.double(), leaf, teacher.double(), mask.double())
    assert error(value, expected) <= 1e-5
    assert error(grad, torch.autograd.grad(expected, leaf)[0]) <= 1e-5


def test_hidden_positions_cost_the_whole_teacher_with_an_identity_generator() -> None:
    _, teacher, mask = sample()
    teacher = teacher.relu()
    value = with_identity_generator()(teacher, teacher, keep_mask=mask)
    assert error(value, ((1 - mask) * teacher).square().sum() / 2) <= 1e-6


def test_zero_with_an_identity_generator_and_nothing_hidden() -> None:
    teacher = sample()[1].relu()
    assert with_identity_generator(mask_ratio=0.0)(teacher, teacher) == 0


def test_not_zero_when_student_is_teacher() -> None:
    assert build()(sample()[1], sample()[1]) > 1.0


def test_ratio_zero_hides_nothing() -> None:
    student, teacher, mask = sample()
    loss = build(mask_ratio=0.0)
    assert loss(student, teacher) == loss(student, teacher, keep_mask=torch.ones_like(mask))


def test_ratio_one_hides_the_student_and_the_bias_of_its_alignment() -> None:
    student, teacher, _ = sample((3, 5))
    loss = build((3, 5), mask_ratio=1.0)
    value = loss(student.requires_grad_(), teacher)
    value.backward()
    assert value == loss(7.0 * student + 1.0, teacher)
    for tensor in (student, *loss.align.parameters()):
        assert not tensor.grad.any()


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_a_mask_is_one_draw_per_position_and_keeps_the_rest_of_the_ratio(ratio: float) -> None:
    torch.manual_seed(0)
    mask = build(mask_ratio=ratio).draw_mask(torch.empty(4, 3, 100, 50))
    assert mask.shape == (4, 1, 100, 50)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    deviation = (ratio * (1 - ratio) / mask.numel()) ** 0.5
    assert abs(mask.mean().item() - (1 - ratio)) < 4 * deviation


def test_a_mask_has_the_type_of_the_features() -> None:
    assert build().draw_mask(torch.empty(2, 3, 4, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_mask_is_fresh_each_step_and_follows_the_seed() -> None:
    student, teacher, _ = sample()
    loss = build()
    torch.manual_seed(5)
    first, second = loss(student, teacher), loss(student, teacher)
    torch.manual_seed(5)
    assert loss(student, teacher) == first != second


@pytest.mark.parametrize(
    "change",
    [
        lambda s, t, mask: [torch.cat([x, x]) for x in (s, t, mask)],
        lambda s, t, mask: [*(x.to(memory_format=torch.channels_last) for x in (s, t)), mask],
        lambda s, t, mask: (s, t, mask.to(torch.uint8)),
        lambda s, t, mask: (s * mask, t, mask),
    ],
    ids=["batch twice", "channels last", "a mask of integers", "student changed at hidden positions"],
)
def test_value_is_unchanged_with(change: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
    student, teacher, mask = sample()
    loss = build()
    changed = change(student, teacher, mask)
    got = loss(*changed[:2], keep_mask=changed[2])
    assert error(got, loss(student, teacher, keep_mask=mask)) <= 1e-5


def test_labels_are_not_used() -> None:
    student, teacher, mask = sample()
    loss = build()
    assert loss(student, teacher, torch.zeros(2, 1, 40, 48), mask) == loss(student, teacher, None, mask)


def test_the_value_is_float32_under_autocast() -> None:
    student, teacher, mask = sample((3, 5))
    with torch.autocast("cpu", torch.bfloat16):
        value = build((3, 5))(student.bfloat16(), teacher.bfloat16(), keep_mask=mask)
    assert value.dtype == torch.float32
    assert value.isfinite()


def test_parameter_counts_at_resnet_sizes() -> None:
    with torch.device("meta"):
        loss, same = MGDLoss(512, 2048), MGDLoss(2048, 2048)
    assert sum(p.numel() for p in loss.align.parameters()) == 1_050_624
    assert sum(p.numel() for p in loss.generation.parameters()) == 75_501_568
    assert not list(same.align.parameters())


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(RmrkdError, match=r"mask_ratio must be in 0\.\.1"):
        MGDLoss(4, 4, mask_ratio=ratio)
