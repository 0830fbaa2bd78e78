from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses import CIRKDLoss, _relations
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive_relations import naive_cirkd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


@pytest.mark.parametrize(("tau", "expected"), [(1.0, 0.120115), (0.1, 4.306898)])
def test_hand_computed_value(tau: float, expected: float) -> None:
    student, teacher = torch.eye(2).view(1, 2, 1, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    assert CIRKDLoss(2, 2, tau=tau)(student, teacher).item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("block", [1, 97, 1 << 20])  # a row; rows of two images; everything
@pytest.mark.parametrize(("tau", "pool"), [(0.1, 1), (1.0, 1), (0.1, 2)])
@pytest.mark.parametrize(("channels", "size", "batch"), [((4, 4), (5, 6), 2), ((3, 5), (3, 7), 3), ((5, 3), (1, 8), 1)])
def test_equals_the_loop_over_pairs(
    tau: float, pool: int, channels: tuple[int, int], size: tuple[int, int], batch: int, block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(_relations, "_CPU_BLOCK", block)
    student, teacher, _ = (torch.cat([x, -x])[:batch] for x in sample(1, channels, size))
    loss = CIRKDLoss(*channels, tau=tau, pool=pool)
    leaf = student.double().requires_grad_()
    expected = naive_cirkd(loss, leaf, teacher.double())
    ours = student.requires_grad_()
    value = loss(ours, teacher)
    assert error(value.detach(), expected.detach()) <= 1e-5
    assert error(torch.autograd.grad(value, ours)[0], torch.autograd.grad(expected, leaf)[0]) <= 1e-5


@pytest.mark.parametrize("pool", [1, 2])
def test_zero_when_student_is_teacher(pool: int) -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(CIRKDLoss(4, 4, pool=pool), student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6


def test_only_one_map_is_kept() -> None:
    student, teacher, labels = sample(size=(20, 20))
    loss = CIRKDLoss(4, 4)
    assert not list(loss.parameters())
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(student.requires_grad_(), teacher, labels)
    assert [tensor.numel() for tensor in kept] == [student.numel()]


TURN = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(5)))[0]
SCALES = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(6)) + 0.1
ORDER = torch.randperm(30, generator=torch.Generator().manual_seed(0))
SAME: dict[str, Change] = {
    "each position of the student scaled": lambda s, t, y: (SCALES * s, t, y),
    "each position of the teacher scaled": lambda s, t, y: (s, SCALES * t, y),
    "channels of the student turned": lambda s, t, y: (torch.einsum("dc,bchw->bdhw", TURN, s), t, y),
    "channels of the teacher turned": lambda s, t, y: (s, torch.einsum("dc,bchw->bdhw", TURN, t), y),
    "images in another order": lambda *inputs: [x.flip(0) for x in inputs],
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "positions permuted": lambda *inputs: [x.flatten(2)[..., ORDER].view_as(x) for x in inputs],
    "channels last": lambda s, t, y: [*(x.to(memory_format=torch.channels_last) for x in (s, t)), y],
    "other labels": lambda s, t, y: (s, t, 0 * y + 255),
    "no labels": lambda s, t, _: (s, t),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    loss = CIRKDLoss(4, 4)
    assert error(loss(*SAME[change](*sample())), loss(*sample())) <= 1e-5


def test_images_are_compared_with_each_other() -> None:
    """Turning one image alone changes its cosines with the other, and none of its own."""
    student, teacher, labels = sample()
    turned = torch.stack([student[0], torch.einsum("dc,chw->dhw", TURN, student[1])])
    alone = [CIRKDLoss(4, 4)(x[1:], teacher[1:], labels[1:]) for x in (student, turned)]
    assert error(*alone) <= 1e-5
    together = [CIRKDLoss(4, 4)(x, teacher, labels) for x in (student, turned)]
    assert error(*together) > 1e-3


def test_pooling_averages_two_by_two_positions() -> None:
    student, teacher, labels = sample(size=(5, 7))
    halves = [F.avg_pool2d(x, 2, ceil_mode=True) for x in (student, teacher)]
    assert halves[0].shape[2:] == (3, 4)
    assert error(CIRKDLoss(4, 4, pool=2)(student, teacher, labels), CIRKDLoss(4, 4)(*halves, labels)) <= 1e-6


def test_a_zero_vector_gets_no_gradient() -> None:
    student, teacher, labels = sample(4)
    student[:, :, :2] = 0
    value, grad = value_and_grad(CIRKDLoss(4, 4), student, teacher, labels)
    assert value.isfinite()
    assert not grad[:, :, :2].any()
    assert 0 < grad.abs().max() < 10


def test_without_gradient_the_value_is_the_same() -> None:
    student, teacher, labels = sample()
    loss = CIRKDLoss(4, 4)
    with torch.no_grad():
        value = loss(student.requires_grad_(), teacher, labels)
    assert not value.requires_grad
    assert value == loss(student, teacher, labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pool", [1, 2])
def test_half_precision_and_autocast_give_the_float32_value_of_the_rounded_numbers(
    dtype: torch.dtype, pool: int
) -> None:
    student, teacher, labels = sample(channels=(3, 5))
    student, teacher = student.to(dtype), teacher.to(dtype)
    loss = CIRKDLoss(3, 5, pool=pool)
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(loss, student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), labels))
    assert grad.isfinite().all()
