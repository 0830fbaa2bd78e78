from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.losses import IFVDLoss
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive_relations import naive_ifvd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def test_hand_computed_value() -> None:
    student, teacher = torch.eye(2).view(1, 2, 1, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    value = IFVDLoss(2, 2, 1)(student, teacher, torch.zeros(1, 1, 1, 2, dtype=torch.long))
    assert value.item() == pytest.approx((1 - 0.5**0.5) ** 2, abs=1e-6)


@pytest.mark.parametrize(
    ("channels", "align", "size"), [((4, 4), False, (5, 6)), ((3, 5), False, (4, 7)), ((3, 5), True, (5, 6))]
)
def test_equals_the_loop_over_classes(channels: tuple[int, int], align: bool, size: tuple[int, int]) -> None:
    student, teacher, labels = sample(1, channels, size)
    loss = IFVDLoss(*channels, K, align=align)
    value, grad = value_and_grad(loss, student, teacher, labels)
    leaf = student.double().requires_grad_()
    expected = naive_ifvd(loss.double(), leaf, teacher.double(), labels)
    assert error(value, expected) <= 1e-5
    assert error(grad, torch.autograd.grad(expected, leaf)[0]) <= 1e-5


def test_only_align_with_unequal_channels_learns_a_convolution() -> None:
    assert not list(IFVDLoss(3, 5, K).parameters())
    assert not list(IFVDLoss(4, 4, K, align=True).parameters())
    layer = IFVDLoss(3, 5, K, align=True).align
    assert isinstance(layer, nn.Conv2d)
    assert {name: x.shape for name, x in layer.named_parameters()} == {"weight": (5, 3, 1, 1), "bias": (5,)}


def test_zero_when_student_is_teacher() -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(IFVDLoss(4, 4, K), student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6


def test_ignored_pixels_add_zero_and_count_in_the_mean() -> None:
    student, teacher, labels = sample()
    wide = [torch.cat([x, x], 3) for x in (student, teacher)]
    loss = IFVDLoss(4, 4, K)
    value, grad = value_and_grad(loss, *wide, torch.cat([labels, 0 * labels + 255], 3))
    assert error(2 * value, loss(student, teacher, labels)) <= 1e-6
    assert not grad[..., 6:].any()
    assert not grad.movedim(1, -1)[..., :6, :][labels[:, 0] == 255].any()


def test_absent_classes_add_nothing() -> None:
    few, many = (value_and_grad(IFVDLoss(4, 4, k), *sample()) for k in (K, K + 5))
    assert error(many[0], few[0]) <= 1e-6
    assert error(many[1], few[1]) <= 1e-6


def test_classes_of_one_pixel_add_nothing() -> None:
    student, teacher, labels = sample()
    alone = torch.arange(30).view(1, 1, 5, 6).expand_as(labels)
    value, grad = value_and_grad(IFVDLoss(4, 4, 30), student, teacher, alone)
    assert max(value, grad.abs().max()) <= 1e-6


@pytest.mark.parametrize("align", [False, True])
def test_all_ignored_gives_zero_and_a_zero_gradient_for_every_parameter(align: bool) -> None:
    student, teacher, labels = sample(channels=(3, 5))
    loss = IFVDLoss(3, 5, K, align=align)
    value = loss(student.requires_grad_(), teacher, 0 * labels + 255)
    value.backward()
    assert value == 0
    for tensor in (student, *loss.parameters()):
        assert not tensor.grad.any()


ORDER = torch.randperm(30, generator=torch.Generator().manual_seed(0))
SCALES = torch.tensor([0.3, 5.0]).view(2, 1, 1, 1)
SAME: dict[str, Change] = {
    "each image of the student scaled": lambda s, t, y: (SCALES * s, t, y),
    "each image of the teacher scaled": lambda s, t, y: (s, SCALES * t, y),
    "positions permuted": lambda *inputs: [x.flatten(2)[..., ORDER].view_as(x) for x in inputs],
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "channels last": lambda s, t, y: [*(x.to(memory_format=torch.channels_last) for x in (s, t)), y],
    "another label outside of the classes": lambda s, t, y: (s, t, y.masked_fill(y == 255, K)),
    "-1 for what is ignored": lambda s, t, y: (s, t, y.masked_fill(y == 255, -1)),
    "student changed at ignored pixels": lambda s, t, y: (torch.where(y == 255, s + 1.0, s), t, y),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    loss = IFVDLoss(4, 4, K)
    assert error(loss(*SAME[change](*sample())), loss(*sample())) <= 1e-5


def test_value_differs_with_a_shift_of_the_student() -> None:
    student, teacher, labels = sample()
    loss = IFVDLoss(4, 4, K)
    assert error(loss(student + 1.0, teacher, labels), loss(student, teacher, labels)) > 1e-3


@pytest.mark.parametrize("options", [{}, {"label_resize": "nearest"}, {"label_resize": "bilinear"}])
def test_labels_are_resized_as_the_option_says_and_by_nearest_without(options: dict[str, str]) -> None:
    student, teacher, _ = sample()
    labels = torch.randint(0, K, (2, 1, 40, 48), generator=torch.Generator().manual_seed(3))
    labels[0, 0, 20:, 24:] = 255
    blended = sum(labels[:, :, i::8, j::8] for i in (3, 4) for j in (3, 4)) // 4
    loss = IFVDLoss(4, 4, K, **options)
    small = blended if options.get("label_resize") == "bilinear" else labels[:, :, ::8, ::8]
    assert loss(student, teacher, labels) == loss(student, teacher, small) > 0


@pytest.mark.parametrize("align", [False, True])
def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers(align: bool) -> None:
    student, teacher, labels = sample(channels=(3, 5))
    student, teacher = student.bfloat16(), teacher.bfloat16()
    loss = IFVDLoss(3, 5, K, align=align)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), labels))
