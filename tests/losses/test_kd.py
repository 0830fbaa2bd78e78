from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses import KDLoss
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive import error_of, naive_kd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
REDUCTIONS = ("pixels", "elements", "skd", "mmrazor", "mmrazor-mean")


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("pixels", 0.130812),
        ("elements", 0.065406),
        ("skd", log(2)),
        ("mmrazor", 0.130812),
        ("mmrazor-mean", 0.065406),
    ],
)
def test_hand_computed_value(reduction: str, expected: float) -> None:
    teacher = torch.tensor([0.0, log(3)]).view(1, 2, 1, 1)
    value = KDLoss(2, reduction=reduction)(torch.zeros(1, 2, 1, 1), teacher)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_a_temperature_is_squared_before_the_loss() -> None:
    value = KDLoss(2, 4.0)(torch.zeros(1, 2, 1, 1), torch.tensor([0.0, 4 * log(3)]).view(1, 2, 1, 1))
    assert value.item() == pytest.approx(16 * 0.130812, abs=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("size", "tau"), [((5, 6), 1.0), ((3, 7), 2.5)])
def test_equals_the_formula(reduction: str, size: tuple[int, int], tau: float) -> None:
    assert error_of(KDLoss(K, tau, reduction), naive_kd, *sample(1, size=size)) <= 1e-5


@pytest.mark.parametrize(
    ("reduction", "factor"),
    [("elements", 1 / (K * 6.25)), ("skd", 2 / 6.25), ("mmrazor", 30), ("mmrazor-mean", 1 / K)],
)
def test_a_release_has_this_factor_against_the_canonical_form(reduction: str, factor: float) -> None:
    """Two images of 5 x 6 at tau 2.5; SKD's entropy of the teacher has no gradient."""
    student, teacher, labels = sample()
    canonical = value_and_grad(KDLoss(K, 2.5), student, teacher, labels)
    released = value_and_grad(KDLoss(K, 2.5, reduction), student, teacher, labels)
    p = F.softmax(teacher / 2.5, 1)
    entropy = -(p * p.log()).sum() / 30 if reduction == "skd" else 0
    assert error(released[0] - entropy, factor * canonical[0]) <= 1e-5
    assert error(released[1], factor * canonical[1]) <= 1e-5


def test_weights_of_releases_on_19_classes() -> None:
    """IFVD's 10 comes to 10/19 of the canonical form, mmrazor's sum at 64 x 64 to 4096 times it."""
    student, teacher = torch.randn(2, 1, 19, 64, 64, generator=torch.Generator().manual_seed(0))
    canonical = KDLoss(19)(student, teacher)
    assert error(10 * KDLoss(19, reduction="elements")(student, teacher), 0.526316 * canonical) <= 1e-5
    assert error(KDLoss(19, reduction="mmrazor")(student, teacher), 4096 * canonical) <= 1e-5


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_gradient_when_student_is_teacher(reduction: str) -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(KDLoss(K, reduction=reduction), student, student, labels)
    assert grad.abs().max() <= 1e-6
    assert (value.abs() <= 1e-6) == (reduction != "skd")


SHIFT = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(5))
SAME: dict[str, Change] = {
    "student shifted at each pixel": lambda s, t, y: (s + SHIFT, t, y),
    "teacher shifted at each pixel": lambda s, t, y: (s, t + SHIFT, y),
    "transposed": lambda s, t, y: (s.transpose(2, 3), t.transpose(2, 3), y),
    "all ignored": lambda s, t, y: (s, t, 0 * y + 255),
    "ignored as -1": lambda s, t, y: (s, t, 0 * y - 1),
    "classes turned": lambda s, t, y: (s.roll(1, 1), t.roll(1, 1), y),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str, reduction: str) -> None:
    loss = KDLoss(K, 2.0, reduction)
    assert error(loss(*SAME[change](*sample())), loss(*sample())) <= 1e-5


@pytest.mark.parametrize(
    ("reduction", "factor"), [("pixels", 1), ("elements", 1), ("skd", 2), ("mmrazor", 1), ("mmrazor-mean", 1)]
)
def test_a_batch_that_is_given_twice(reduction: str, factor: int) -> None:
    loss = KDLoss(K, reduction=reduction)
    assert error(loss(*(torch.cat([x, x]) for x in sample())), factor * loss(*sample())) <= 1e-5


def test_certain_networks_stay_finite() -> None:
    student, teacher, labels = sample()
    for reduction in REDUCTIONS:
        value, grad = value_and_grad(KDLoss(K, reduction=reduction), 1e4 * student, -1e4 * teacher, labels)
        assert value.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers(reduction: str) -> None:
    student, teacher, labels = sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    loss = KDLoss(K, reduction=reduction)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), labels))
