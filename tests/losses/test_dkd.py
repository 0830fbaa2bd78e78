from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses import DKDLoss
from tests.losses.common import K, error

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def sample(seed: int = 0, size: tuple[int, int] = (5, 6)) -> tuple[Tensor, ...]:
    """Student, teacher, and labels at the size of the logits with a few ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (4 * torch.randn(2, K, *size, generator=generator) for _ in range(2))
    labels = torch.randint(0, K, (2, 1, *size), generator=generator)
    return student, teacher, labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.1, 255)


def value_and_grad(
    loss: Callable[..., Tensor], student: Tensor, teacher: Tensor, *labels: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher, *labels)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def divergence(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 KL of the two distributions over the positions of one map."""
    p, q = F.softmax(teacher.flatten() / tau, 0), F.softmax(student.flatten() / tau, 0)
    return tau**2 * (p * (p.log() - q.log())).sum()


def naive(student: Tensor, teacher: Tensor, labels: Tensor, tau: float, weights: tuple[float, float]) -> Tensor:
    total = student.new_zeros(())
    for s, t, y in zip(student, teacher, labels, strict=True):
        for k in range(K):
            inside = (y[0] == k).to(s)
            for weight, region in zip(weights, (inside, 1 - inside), strict=True):
                total = total + weight * divergence(region * s[k], region * t[k], tau)
    return total / (len(student) * K)


def channel_wise(student: Tensor, teacher: Tensor, tau: float = 4.0) -> Tensor:
    """Channel-wise distillation (CWD) of whole maps, without labels."""
    rows = zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True)
    return torch.stack([divergence(s, t, tau) for s, t in rows]).mean()


@pytest.mark.parametrize(("weights", "expected"), [((1, 0), 0.130812), ((0, 1), 0.056633), ((1, 1), 0.187445)])
def test_hand_computed_value(weights: tuple[float, float], expected: float) -> None:
    teacher = torch.tensor([3.0, 2.0]).log().view(1, 1, 1, 2)
    value = DKDLoss(1, 1.0, *weights)(torch.zeros(1, 1, 1, 2), teacher, torch.tensor([0, 255]).view(1, 1, 1, 2))
    assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("size", "tau", "weights"), [((5, 6), 4.0, (4.0, 4.0)), ((3, 7), 1.5, (0.3, 2.0))])
def test_equals_the_loop_over_classes(size: tuple[int, int], tau: float, weights: tuple[float, float]) -> None:
    student, teacher, labels = sample(1, size)
    value, grad = value_and_grad(DKDLoss(K, tau, *weights), student, teacher, labels)
    leaf = student.double().requires_grad_()
    expected = naive(leaf, teacher.double(), labels, tau, weights)
    assert error(value, expected) <= 1e-5
    assert error(grad, torch.autograd.grad(expected, leaf)[0]) <= 1e-5


def test_zero_when_student_is_teacher() -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(DKDLoss(K), student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6


@pytest.mark.parametrize(("label", "weights", "factor"), [(2, (3, 3), 3), (255, (5, 2), 2), (K, (5, 2), 2)])
def test_one_label_everywhere_makes_it_channel_wise_distillation(
    label: int, weights: tuple[float, float], factor: int
) -> None:
    student, teacher, labels = sample()
    got = value_and_grad(DKDLoss(K, 4.0, *weights), student, teacher, 0 * labels + label)
    expected = value_and_grad(channel_wise, student, teacher)
    assert error(got[0], factor * expected[0]) <= 1e-5
    assert error(got[1], factor * expected[1]) <= 1e-5


def test_an_absent_class_is_distilled_over_its_whole_map() -> None:
    student, teacher, labels = sample()
    labels[labels == 1] = 0
    _, grad = value_and_grad(DKDLoss(K, 4.0, 7.0, 2.0), student, teacher, labels)
    _, expected = value_and_grad(channel_wise, student, teacher)
    assert error(grad[:, 1], 2.0 * expected[:, 1]) <= 1e-5
    assert error(grad[:, 0], 2.0 * expected[:, 0]) > 1e-2


ORDER = torch.randperm(30, generator=torch.Generator().manual_seed(0))
SAME: dict[str, Change] = {
    "positions permuted": lambda *inputs: [x.flatten(2)[..., ORDER].view_as(x) for x in inputs],
    "transposed": lambda *inputs: [x.transpose(2, 3) for x in inputs],
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "channels last": lambda s, t, y: [*(x.to(memory_format=torch.channels_last) for x in (s, t)), y],
    "another label outside of the classes": lambda s, t, y: (s, t, y.masked_fill(y == 255, K)),
}
OTHER: dict[str, Change] = {
    "teacher shifted": lambda s, t, y: (s, t + 1.0, y),
    "student changed at ignored pixels": lambda s, t, y: (torch.where(y == 255, -s, s), t, y),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    assert error(DKDLoss(K)(*SAME[change](*sample())), DKDLoss(K)(*sample())) <= 1e-5


@pytest.mark.parametrize("change", OTHER)
def test_value_differs_with(change: str) -> None:
    assert error(DKDLoss(K)(*OTHER[change](*sample())), DKDLoss(K)(*sample())) > 1e-3


def test_labels_are_resized_by_nearest() -> None:
    student, teacher, _ = sample()
    labels = torch.randint(0, K + 1, (2, 1, 40, 48), generator=torch.Generator().manual_seed(3))
    labels[labels == K] = 255
    assert DKDLoss(K)(student, teacher, labels) == DKDLoss(K)(student, teacher, labels[:, :, ::8, ::8])


def test_nothing_is_learned() -> None:
    assert not list(DKDLoss(K).parameters())


def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers() -> None:
    student, teacher, labels = sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = DKDLoss(K)(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, DKDLoss(K)(student.float(), teacher.float(), labels))
