from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from rmrkd_cli.losses import IDDLoss
from tests.losses.common import K, error, value_and_grad

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def sample(seed: int = 0, channels: tuple[int, int] = (4, 4), size: tuple[int, int] = (5, 6)) -> tuple[Tensor, ...]:
    """Student, teacher, and labels at the size of the maps with a few ignored pixels; class 3 only in image 0."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(2, c, *size, generator=generator) for c in channels)
    labels = torch.randint(0, K, (2, 1, *size), generator=generator)
    labels[1] %= K - 1
    return student, teacher, labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.1, 255)


def naive(student: Tensor, teacher: Tensor, labels: Tensor, classes: int, present_only: bool) -> Tensor:
    total = student.new_zeros(())
    for s, t, y in zip(student, teacher, labels, strict=True):
        masks = [(y == k).to(s) for k in range(classes)]
        ours, theirs = ([(m * f).sum((1, 2)) / (m.sum() + 1e-6) for m in masks] for f in (s, t))
        for i in range(classes):
            for j in range(i + 1, classes):
                if present_only and not (masks[i].any() and masks[j].any()):
                    continue
                gap = (theirs[i] - theirs[j] + 1e-6).norm() - (ours[i] - ours[j] + 1e-6).norm()
                total = total + 0.5 * gap**2
    return total / len(student)


@pytest.mark.parametrize(("classes", "present_only", "expected"), [(2, False, 2.0), (3, False, 3.0), (3, True, 2.0)])
def test_hand_computed_value(classes: int, present_only: bool, expected: float) -> None:
    student, teacher = torch.tensor([1.0, 4.0]).view(1, 1, 1, 2), torch.tensor([0.0, 5.0]).view(1, 1, 1, 2)
    loss = IDDLoss(1, 1, classes, present_only=present_only)
    assert loss(student, teacher, torch.tensor([0, 1]).view(1, 1, 1, 2)).item() == pytest.approx(expected, abs=1e-5)


def test_distances_carry_the_1e_6_of_pairwise_distance() -> None:
    student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([0.0, 1e-4]).view(1, 1, 1, 2)
    value = IDDLoss(1, 1, 2)(student, teacher, torch.tensor([0, 1]).view(1, 1, 1, 2))
    assert value.item() == pytest.approx(0.5 * (99e-6 - 1e-6) ** 2, rel=1e-4)


def test_near_prototypes_of_a_high_level_keep_their_distances() -> None:
    student, teacher, labels = sample()
    student, teacher = student + 300.0, teacher + 300.0
    expected = naive(student.double(), teacher.double(), labels, K, True)
    assert error(IDDLoss(4, 4, K, present_only=True)(student, teacher, labels), expected) <= 1e-4


@pytest.mark.parametrize("present_only", [False, True])
@pytest.mark.parametrize(("channels", "size", "classes"), [((4, 4), (5, 6), K), ((3, 5), (4, 7), K + 2)])
def test_equals_the_loop_over_pairs(
    present_only: bool, channels: tuple[int, int], size: tuple[int, int], classes: int
) -> None:
    student, teacher, labels = sample(1, channels, size)
    loss = IDDLoss(*channels, classes, present_only=present_only)
    value, grad = value_and_grad(loss, student, teacher, labels)
    leaf = student.double().requires_grad_()
    expected = naive(loss.align.double()(leaf), teacher.double(), labels, classes, present_only)
    assert error(value, expected) <= 1e-5
    assert error(grad, torch.autograd.grad(expected, leaf)[0]) <= 1e-5


def test_zero_when_student_is_teacher() -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(IDDLoss(4, 4, K), student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6


def test_an_absent_class_compares_the_lengths_of_the_prototypes_present() -> None:
    student, teacher, _ = sample()
    labels = torch.arange(30).view(1, 1, 5, 6).expand(2, 1, 5, 6) % K
    lengths = [torch.stack([f.flatten(2)[..., k::K].mean(2).norm(dim=1) for k in range(K)]) for f in (student, teacher)]
    added = IDDLoss(4, 4, K + 3)(student, teacher, labels) - IDDLoss(4, 4, K)(student, teacher, labels)
    assert error(added, 3 * 0.5 * (lengths[0] - lengths[1]).square().sum() / 2) <= 1e-5


def test_present_only_ignores_absent_classes() -> None:
    few, many = (value_and_grad(IDDLoss(4, 4, k, present_only=True), *sample()) for k in (K, K + 5))
    assert error(many[0], few[0]) <= 1e-6
    assert error(many[1], few[1]) <= 1e-6


@pytest.mark.parametrize("present_only", [False, True])
def test_all_ignored_gives_zero_and_a_zero_gradient_for_every_parameter(present_only: bool) -> None:
    student, teacher, labels = sample(channels=(3, 5))
    loss = IDDLoss(3, 5, K, present_only=present_only)
    value = loss(student.requires_grad_(), teacher, 0 * labels + 255)
    value.backward()
    assert value == 0
    for tensor in (student, *loss.parameters()):
        assert not tensor.grad.any()


@pytest.mark.parametrize("level", [0.0, 100.0])
def test_equal_prototypes_give_a_finite_gradient(level: float) -> None:
    student, teacher, labels = sample()
    value, grad = value_and_grad(IDDLoss(4, 4, K), torch.full_like(student, level), teacher, labels)
    assert value.isfinite()
    assert grad.isfinite().all()


TURN = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]
ORDER = torch.randperm(30, generator=torch.Generator().manual_seed(0))
SAME: dict[str, Change] = {
    "student turned by an orthogonal map": lambda s, t, y: (torch.einsum("dc,bchw->bdhw", TURN, s), t, y),
    "positions permuted": lambda *inputs: [x.flatten(2)[..., ORDER].view_as(x) for x in inputs],
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "channels last": lambda s, t, y: [*(x.to(memory_format=torch.channels_last) for x in (s, t)), y],
    "another label outside of the classes": lambda s, t, y: (s, t, y.masked_fill(y == 255, K)),
    "student changed at ignored pixels": lambda s, t, y: (torch.where(y == 255, -s, s), t, y),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    loss = IDDLoss(4, 4, K)
    assert error(loss(*SAME[change](*sample())), loss(*sample())) <= 1e-5


def test_a_common_vector_cancels_between_present_classes_only() -> None:
    student, teacher, labels = sample()
    released, present = (IDDLoss(4, 4, K, present_only=only) for only in (False, True))
    shifted = student + 2.0, teacher + 2.0, labels
    assert error(present(*shifted), present(student, teacher, labels)) <= 1e-5
    assert error(released(*shifted), released(student, teacher, labels)) > 1e-3


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_labels_are_resized_as_the_option_says(mode: str) -> None:
    student, teacher, _ = sample()
    labels = torch.randint(0, K, (2, 1, 40, 48), generator=torch.Generator().manual_seed(3))
    labels[0, 0, 20:, 24:] = 255
    blended = sum(labels[:, :, i::8, j::8] for i in (3, 4) for j in (3, 4)) // 4
    loss = IDDLoss(4, 4, K, label_resize=mode)
    small = blended if mode == "bilinear" else labels[:, :, ::8, ::8]
    assert loss(student, teacher, labels) == loss(student, teacher, small) > 0


def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers() -> None:
    student, teacher, labels = sample(channels=(3, 5))
    student, teacher = student.bfloat16(), teacher.bfloat16()
    loss = IDDLoss(3, 5, K)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), labels))
