from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from rmrkd_cli.losses import ATLoss
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive import error_of, naive_at

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def test_hand_computed_value() -> None:
    student, teacher = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert ATLoss(1, 1)(student, teacher).item() == pytest.approx(0.509739, abs=1e-6)


@pytest.mark.parametrize("channels", [(4, 4), (3, 5), (130, 70)])
@pytest.mark.parametrize("size", [(5, 6), (3, 7)])
def test_equals_the_formula(channels: tuple[int, int], size: tuple[int, int]) -> None:
    assert error_of(ATLoss(*channels), naive_at, *sample(1, channels, size)) <= 1e-5


def test_zero_when_student_is_teacher() -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(ATLoss(4, 4), student, student, labels)
    assert max(value, grad.abs().max()) == 0


ORDER = torch.randperm(30, generator=torch.Generator().manual_seed(0))
SCALE = torch.tensor([0.2, 7.0]).view(2, 1, 1, 1)
SAME: dict[str, Change] = {
    "student scaled in each image": lambda s, t, y: (SCALE * s, t, y),
    "teacher scaled in each image": lambda s, t, y: (s, SCALE * t, y),
    "signs turned": lambda s, t, y: (-s, t.abs(), y),
    "channels permuted": lambda s, t, y: (s.flip(1), t.roll(1, 1), y),
    "positions permuted": lambda *inputs: [x.flatten(2)[..., ORDER].view_as(x) for x in inputs],
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "all ignored": lambda s, t, y: (s, t, 0 * y + 255),
    "ignored as -1": lambda s, t, y: (s, t, 0 * y - 1),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    inputs = sample(channels=(3, 5))
    assert error(ATLoss(3, 5)(*SAME[change](*inputs)), ATLoss(3, 5)(*inputs)) <= 1e-5


def test_the_value_is_at_most_2_over_the_positions() -> None:
    student, teacher = torch.zeros(2, 1, 3, 4, 5)
    student[..., 0, 0], teacher[..., 1, 1] = 3.0, 2.0
    assert ATLoss(3, 3)(student, teacher).item() == pytest.approx(2 / 20)


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-8, 1e-6, 1.0])
def test_a_constant_map_stays_finite(level: float) -> None:
    student, teacher, labels = sample()
    constant = torch.full_like(student, level)
    for inputs in ((constant, teacher), (student, constant), (constant, constant)):
        value, grad = value_and_grad(ATLoss(4, 4), *inputs, labels)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers() -> None:
    student, teacher, labels = sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = ATLoss(4, 4)(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, ATLoss(4, 4)(student.float(), teacher.float(), labels))
