from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from rmrkd_cli.losses import DISTLoss
from rmrkd_cli.losses.dist import mean_correlation
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive import error_of, naive_dist

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def test_hand_computed_value() -> None:
    """Two classes at two pixels, (0.9, 0.2) and (0.1, 0.8) against (0.6, 0.3) and (0.4, 0.7): both agree in sign."""
    ours, theirs = torch.tensor([[0.9, 0.2], [0.1, 0.8]]), torch.tensor([[0.6, 0.3], [0.4, 0.7]])
    student, teacher = (x.log().view(1, 2, 1, 2) for x in (ours, theirs))
    assert DISTLoss(2)(student, teacher).item() == pytest.approx(0.0, abs=1e-5)
    assert DISTLoss(2)(student, teacher.flip(1)).item() == pytest.approx(4.0, abs=1e-5)
    assert DISTLoss(2, beta=3.0, gamma=0.5)(student, teacher.flip(1)).item() == pytest.approx(7.0, abs=1e-5)


@pytest.mark.parametrize("intra_over", ["positions", "images"])
@pytest.mark.parametrize(
    ("size", "options"),
    [((5, 6), (1.0, 1.0, 1.0)), ((3, 7), (2.0, 0.5, 3.0)), ((4, 4), (1.0, 1.0, 0.0)), ((4, 4), (1.0, 0.0, 1.0))],
)
def test_equals_the_formula(size: tuple[int, int], options: tuple[float, ...], intra_over: str) -> None:
    batches = [sample(seed, size=size) for seed in (1, 2)]  # over two images a correlation is 1 or -1, without gradient
    inputs = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    assert error_of(DISTLoss(K, *options, intra_over=intra_over), naive_dist, *inputs) <= 1e-5


@pytest.mark.parametrize("level", [0.1, 0.3, 1 / 3, 0.7])
@pytest.mark.parametrize("size", [(5, 6), (45, 45), (64, 128)])
def test_a_class_whose_teacher_is_constant_gets_no_gradient(size: tuple[int, int], level: float) -> None:
    """Its deviation from its mean is rounding alone, in float32."""
    draw = torch.Generator().manual_seed(0)
    student = torch.rand(2, 1, *size, generator=draw, requires_grad=True)
    teacher = torch.full_like(student, level)
    for dims in ((0, 2, 3), (2, 3), (0,)):
        (gradient,) = torch.autograd.grad(mean_correlation(student, teacher, dims), student)
        assert gradient.abs().max() <= 1e-7


@pytest.mark.parametrize("intra_over", ["positions", "images"])
def test_the_float32_gradient_is_the_float64_one_where_the_teacher_is_sure(intra_over: str) -> None:
    student, teacher, _ = sample(3, size=(24, 32))
    teacher = teacher * 0.0 + torch.arange(K).view(1, -1, 1, 1)  # the same at every position
    loss = DISTLoss(K, intra_over=intra_over)
    value, gradient = value_and_grad(loss, student, teacher, None)
    expected_value, expected = value_and_grad(loss, student.double(), teacher.double(), None)
    assert error(value.double(), expected_value) <= 1e-6
    assert error(gradient.double(), expected) <= 1e-5


def test_nearly_zero_when_student_is_teacher() -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(DISTLoss(K), student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6


@pytest.mark.parametrize(("spread", "expected"), [(1e-4, 0.99988), (1e-5, 0.988), (1e-6, 0.45)])
def test_the_guard_lowers_the_correlation_of_what_hardly_varies(spread: float, expected: float) -> None:
    values = torch.randn(1, 1, 64, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = (values - values.mean()) / values.std() * spread
    assert mean_correlation(values, values, (0, 2, 3)).item() == pytest.approx(expected, rel=2e-3)


def test_mmrazors_axis_is_a_constant_for_one_image() -> None:
    student, teacher, _ = (x[:1] for x in sample())
    loss = DISTLoss(K, beta=0.0, intra_over="images")
    value, grad = value_and_grad(loss, student, teacher, None)
    assert value == 1
    assert grad.abs().max() <= 1e-6


ORDER = torch.randperm(30, generator=torch.Generator().manual_seed(0))
SHIFT = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(5))
SAME: dict[str, Change] = {
    "student shifted at each pixel": lambda s, t, y: (s + SHIFT, t, y),
    "teacher shifted at each pixel": lambda s, t, y: (s, t + SHIFT, y),
    "positions permuted": lambda *inputs: [x.flatten(2)[..., ORDER].view_as(x) for x in inputs],
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "images side by side": lambda *inputs: [torch.cat(x.split(1), 3) for x in inputs],
    "all ignored": lambda s, t, y: (s, t, 0 * y + 255),
    "ignored as -1": lambda s, t, y: (s, t, 0 * y - 1),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    assert error(DISTLoss(K)(*SAME[change](*sample())), DISTLoss(K)(*sample())) <= 1e-5


def test_value_lies_in_its_range() -> None:
    student, _, labels = sample()
    assert 0 <= DISTLoss(K)(student, -10 * student, labels) <= 4


@pytest.mark.parametrize("change", [lambda x: 0 * x, lambda x: 1e4 * x, lambda x: x.mean(1, keepdim=True).expand_as(x)])
@pytest.mark.parametrize("intra_over", ["positions", "images"])
def test_vectors_that_do_not_vary_stay_finite(change: Callable[[Tensor], Tensor], intra_over: str) -> None:
    student, teacher, labels = sample()
    for inputs in ((change(student), teacher), (student, change(teacher)), (change(student), change(teacher))):
        value, grad = value_and_grad(DISTLoss(K, intra_over=intra_over), *inputs, labels)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers() -> None:
    student, teacher, labels = sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = DISTLoss(K)(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, DISTLoss(K)(student.float(), teacher.float(), labels))
