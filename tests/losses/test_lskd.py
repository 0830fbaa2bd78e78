"""LS-KD against its formula, the released functions' arithmetic, and what must not change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import pytest
import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import KDLoss, LSKDLoss
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive import error_of, naive_lskd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
AXES = ("classes", "width")


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("tau", [1.0, 2.0, 3.5])
def test_equals_the_plain_form(axis: str, tau: float) -> None:
    assert error_of(LSKDLoss(K, tau, axis), naive_lskd, *sample(1, size=(3, 5))) <= 1e-5


def test_hand_computed_value() -> None:
    """Two classes become -1/sqrt(2) and 1/sqrt(2), whatever their logits are; equal logits become 0."""
    student, teacher = torch.zeros(1, 2, 1, 1), torch.tensor([0.0, 7.0]).view(1, 2, 1, 1)
    p = 1 / (1 + 2.718281828459045 ** (2**0.5 / 2))  # softmax of the two, at temperature 2
    expected = 4 * (log(2) + p * log(p) + (1 - p) * log(1 - p))
    assert LSKDLoss(2)(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_it_is_kd_of_logits_that_are_standardized_already() -> None:
    student, teacher, _ = sample(2)
    student, teacher = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in (student, teacher))
    assert error(LSKDLoss(K)(student, teacher), KDLoss(K, 2.0)(student, teacher)) <= 1e-5


SCALE, SHIFT = torch.rand(2, 2, 1, 5, 6, generator=torch.Generator().manual_seed(5)) + 0.5
SAME: dict[str, Change] = {
    "student scaled and shifted at each pixel": lambda s, t, y: (SCALE * s + SHIFT, t, y),
    "teacher scaled and shifted at each pixel": lambda s, t, y: (s, SCALE * t - SHIFT, y),
    "transposed": lambda s, t, y: (s.transpose(2, 3), t.transpose(2, 3), y),
    "classes turned": lambda s, t, y: (s.roll(1, 1), t.roll(1, 1), y),
    "given twice": lambda s, t, y: [torch.cat([x, x]) for x in (s, t, y)],
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    loss = LSKDLoss(K)
    assert error(loss(*SAME[change](*sample())), loss(*sample())) <= 1e-5


@pytest.mark.parametrize("axis", AXES)
def test_no_gradient_when_student_is_teacher_and_none_for_the_teacher(axis: str) -> None:
    student, teacher, labels = sample()
    value, grad = value_and_grad(LSKDLoss(K, standardize=axis), student, student, labels)
    assert value.abs() <= 1e-6
    assert grad.abs().max() <= 1e-6
    teacher.requires_grad_()
    assert not LSKDLoss(K, standardize=axis)(student, teacher).requires_grad


def test_one_column_is_nothing_to_standardize_over() -> None:
    student, teacher, labels = (x[..., :1] for x in sample())
    value, grad = value_and_grad(LSKDLoss(K, standardize="width"), student, teacher, labels)
    assert (value.item(), grad.any().item()) == (0.0, False)


def test_an_unknown_axis_is_an_error() -> None:
    with pytest.raises(RmrkdError, match="standardize must be one of classes, width, got `height`"):
        LSKDLoss(K, standardize="height")  # type: ignore[arg-type]
