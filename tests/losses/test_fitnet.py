from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.losses import FitNetLoss
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive import error_of, naive_fitnet

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def make_loss(*channels: int) -> FitNetLoss:
    torch.manual_seed(0)
    return FitNetLoss(*channels)


def test_hand_computed_value() -> None:
    loss = make_loss(2, 1)
    nn.init.constant_(loss.align.weight, 2.0)
    student, teacher = torch.tensor([1.0, 3.0, 0.0, -1.0]).view(1, 2, 1, 2), torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
    assert loss(student, teacher).item() == pytest.approx(((2 - 1) ** 2 + (4 - 2) ** 2) / 2)


@pytest.mark.parametrize("channels", [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("size", [(5, 6), (3, 7)])
def test_equals_the_formula(channels: tuple[int, int], size: tuple[int, int]) -> None:
    assert error_of(make_loss(*channels), naive_fitnet, *sample(1, channels, size)) <= 1e-5


@pytest.mark.parametrize("channels", [(4, 4), (3, 5)])
def test_a_convolution_without_bias_is_learned(channels: tuple[int, int]) -> None:
    assert {name: tuple(p.shape) for name, p in make_loss(*channels).named_parameters()} == {
        "align.weight": (*channels[::-1], 1, 1)
    }


def test_zero_with_the_identity_when_student_is_teacher_and_not_otherwise() -> None:
    student, _, labels = sample()
    loss = make_loss(4, 4)
    assert loss(student, student, labels) > 1e-2
    nn.init.dirac_(loss.align.weight)
    value, grad = value_and_grad(loss, student, student, labels)
    assert max(value, grad.abs().max()) <= 1e-12


SAME: dict[str, Change] = {
    "transposed": lambda *inputs: [x.transpose(2, 3) for x in inputs],
    "teacher and student with the other sign": lambda s, t, y: (-s, -t, y),
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "all ignored": lambda s, t, y: (s, t, 0 * y + 255),
    "ignored as -1": lambda s, t, y: (s, t, 0 * y - 1),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    loss, inputs = make_loss(3, 5), sample(channels=(3, 5))
    assert error(loss(*SAME[change](*inputs)), loss(*inputs)) <= 1e-5


def test_doubling_both_maps_multiplies_by_four() -> None:
    loss, (student, teacher, labels) = make_loss(3, 5), sample(channels=(3, 5))
    assert error(loss(2 * student, 2 * teacher, labels), 4 * loss(student, teacher, labels)) <= 1e-6


def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers() -> None:
    loss, (student, teacher, labels) = make_loss(4, 4), sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), labels))
