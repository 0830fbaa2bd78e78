from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import ATLoss
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive import error_of, naive_at

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def test_hand_computed_value() -> None:
    student, teacher = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert ATLoss(1, 1)(student, teacher).item() == pytest.approx(0.509739, abs=1e-6)


def test_mode_paper_is_the_length_of_the_difference_as_in_torchdistill() -> None:
    student, teacher = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    value = ATLoss(1, 1, mode="paper")(student, teacher)
    assert value.item() == pytest.approx((2 * 0.509739) ** 0.5, abs=1e-6)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(RmrkdError, match="mode must be one of code, paper, got `sum`"):
        ATLoss(4, 4, mode="sum")


@pytest.mark.parametrize("channels", [(4, 4), (3, 5), (130, 70)])
@pytest.mark.parametrize("size", [(5, 6), (3, 7)])
@pytest.mark.parametrize("mode", ["code", "paper"])
def test_equals_the_formula(channels: tuple[int, int], size: tuple[int, int], mode: str) -> None:
    assert error_of(ATLoss(*channels, mode=mode), naive_at, *sample(1, channels, size)) <= 1e-5


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_zero_when_student_is_teacher(mode: str) -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(ATLoss(4, 4, mode=mode), student, student, labels)
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


@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-8, 1e-6, 1.0])
def test_a_constant_map_stays_finite(level: float, mode: str) -> None:
    student, teacher, labels = sample()
    constant = torch.full_like(student, level)
    for inputs in ((constant, teacher), (student, constant), (constant, constant)):
        value, grad = value_and_grad(ATLoss(4, 4, mode=mode), *inputs, labels)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers() -> None:
    student, teacher, labels = sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = ATLoss(4, 4)(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, ATLoss(4, 4)(student.float(), teacher.float(), labels))
