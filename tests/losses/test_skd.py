from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses import SKDLoss, _relations
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive_relations import naive_skd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
OPTIONS: list[dict[str, Any]] = [
    {"nodes": nodes, "detach_norm": detached} for nodes in ("2x2", "half") for detached in (False, True)
]


def test_hand_computed_value() -> None:
    columns = torch.eye(2).repeat_interleave(2, 1)  # two blocks of two by two positions: (1, 0) and (0, 1)
    student = columns.view(1, 2, 1, 4).expand(1, 2, 2, 4)
    teacher = torch.zeros(1, 2, 2, 4)
    teacher[:, 0] = 1
    for nodes in ("2x2", "half"):
        kernel_is_two_by_two = nodes == "2x2"
        maps = (student, teacher) if kernel_is_two_by_two else [x.repeat_interleave(2, 2) for x in (student, teacher)]
        assert SKDLoss(2, 2, nodes=nodes)(*maps).item() == pytest.approx(0.5, abs=1e-7)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("channels", "size"), [((4, 4), (5, 6)), ((3, 5), (9, 7)), ((5, 3), (1, 8))])
def test_equals_the_whole_matrices(
    options: dict[str, Any], channels: tuple[int, int], size: tuple[int, int], block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(_relations, "_CPU_BLOCK", block)
    student, teacher, labels = sample(1, channels, size)
    loss = SKDLoss(*channels, **options)
    value, grad = value_and_grad(loss, student, teacher, labels)
    leaf = student.double().requires_grad_()
    expected = naive_skd(loss, leaf, teacher.double())
    assert error(value, expected) <= 1e-5
    assert error(grad, torch.autograd.grad(expected, leaf)[0]) <= 1e-5


def test_a_value_near_zero_keeps_its_digits() -> None:
    """As a difference of norms of products it would be rounding alone."""
    student, teacher, labels = sample(2, (16, 16), (24, 24))
    near = teacher + 1e-3 * student
    value, grad = value_and_grad(SKDLoss(16, 16), near, teacher, labels)
    leaf = near.double().requires_grad_()
    expected = naive_skd(SKDLoss(16, 16), leaf, teacher.double())
    assert expected < 1e-6
    assert error(value, expected) <= 1e-4
    assert error(grad, torch.autograd.grad(expected, leaf)[0]) <= 1e-3


@pytest.mark.parametrize(("size", "count"), [((64, 64), 4), ((65, 65), 9), ((1, 1), 1), ((3, 2), 6)])
def test_half_of_the_map_is_a_node(size: tuple[int, int], count: int) -> None:
    assert SKDLoss(4, 4, nodes="half")._pool(torch.zeros(1, 4, *size)).flatten(2).shape[2] == count


@pytest.mark.parametrize("options", OPTIONS)
def test_zero_when_student_is_teacher(options: dict[str, Any]) -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(SKDLoss(4, 4, **options), student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-7


def test_a_detached_length_leaves_a_gradient_along_the_feature() -> None:
    student, teacher, labels = sample(size=(2, 2))
    pixels = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (student, teacher)]  # nothing is pooled away
    along = []
    for detached in (False, True):
        _, grad = value_and_grad(SKDLoss(4, 4, detach_norm=detached), *pixels, labels)
        along.append((grad * pixels[0]).sum(1).abs().max())
    assert along[0] <= 1e-7
    assert along[1] >= 1e-3


def test_nothing_is_learned_and_no_matrix_of_pairs_is_kept() -> None:
    student, teacher, labels = sample(size=(40, 40))
    loss = SKDLoss(4, 4)
    assert not list(loss.parameters())
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(student.requires_grad_(), teacher, labels)
    assert sum(tensor.numel() for tensor in kept) <= 2 * student.numel()  # a matrix has 2 * 400 * 400 numbers


def rotate(maps: Tensor) -> Tensor:
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(5)))[0]
    return torch.einsum("dc,bchw->bdhw", turn, maps)


SCALES = torch.tensor([0.3, 5.0]).view(2, 1, 1, 1)
SAME: dict[str, Change] = {
    "student scaled": lambda s, t, y: (SCALES * s, t, y),
    "teacher scaled": lambda s, t, y: (s, SCALES * t, y),
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "images in another order": lambda *inputs: [x.flip(0) for x in inputs],
    "channels in another order": lambda s, t, y: (s.flip(1), t, y),
    "channels last": lambda s, t, y: [*(x.to(memory_format=torch.channels_last) for x in (s, t)), y],
    "other labels": lambda s, t, y: (s, t, 0 * y + 255),
    "no labels": lambda s, t, _: (s, t),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    loss = SKDLoss(4, 4)
    assert error(loss(*SAME[change](*sample(3, size=(6, 8)))), loss(*sample(3, size=(6, 8)))) <= 1e-5


def test_turned_channels_change_it_by_max_pooling_alone() -> None:
    student, teacher, labels = sample(3, size=(6, 8))
    loss = SKDLoss(4, 4)
    assert error(loss(rotate(student), teacher, labels), loss(student, teacher, labels)) > 1e-3
    flat = [F.interpolate(x, scale_factor=2.0) for x in (student, rotate(student), teacher)]  # pooled to what it was
    assert error(loss(flat[1], flat[2]), loss(flat[0], flat[2])) <= 1e-5


def test_of_features_that_are_not_negative_it_is_at_most_one() -> None:
    student, teacher, _ = (x.relu() for x in sample(4, size=(8, 8)))
    assert 0 < SKDLoss(4, 4)(student, teacher) <= 1
    assert SKDLoss(4, 4)(torch.ones_like(student), 0 * teacher) == pytest.approx(1)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_zero_vector_gets_no_gradient(options: dict[str, Any]) -> None:
    student, teacher, labels = sample(4, size=(4, 4))
    student[:, :, :2, :2] = 0
    value, grad = value_and_grad(SKDLoss(4, 4, **options), student.relu(), teacher, labels)
    assert value.isfinite()
    assert not grad[:, :, :2, :2].any()
    assert 0 < grad.abs().max() < 10


def test_without_gradient_the_value_is_the_same() -> None:
    student, teacher, labels = sample()
    loss = SKDLoss(4, 4)
    with torch.no_grad():
        value = loss(student.requires_grad_(), teacher, labels)
    assert not value.requires_grad
    assert value == loss(student, teacher, labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_give_the_float32_value_of_the_rounded_numbers(dtype: torch.dtype) -> None:
    student, teacher, labels = sample(channels=(3, 5))
    student, teacher = student.to(dtype), teacher.to(dtype)
    loss = SKDLoss(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(loss, student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), labels))
    assert grad.isfinite().all()
