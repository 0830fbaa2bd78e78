"""GKD against its formula, written out, and cases whose value is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from rmrkd_cli.losses import GKDLoss
from tests.losses.common import error, sample
from tests.losses.naive import error_of, naive_gkd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def make_loss(*channels: int, pool: int = 1) -> GKDLoss:
    torch.manual_seed(0)
    loss = GKDLoss(*channels, pool=pool)
    with torch.no_grad():
        for norm, _ in (loss.query, loss.value):  # at the start they are 1 and 0
            norm.weight.normal_(1, 0.1)
            norm.bias.normal_(0, 0.1)
    return loss.double()


@pytest.mark.parametrize("pool", [1, 2, 7])
@pytest.mark.parametrize("channels", [(4, 4), (3, 5), (32, 48)])
def test_equals_the_plain_form(channels: tuple[int, int], pool: int) -> None:
    assert error_of(make_loss(*channels, pool=pool), naive_gkd, *sample(1, channels)) <= 1e-5


def test_one_position_is_regressed_linearly() -> None:
    """Softmax over one position is 1: the value layer alone counts, and queries get no gradient."""
    loss, (student, teacher, labels) = make_loss(4, 6), sample(2, (4, 6), (1, 1))
    value = loss(student.double(), teacher.double(), labels)
    expected = (loss.value(student[:, :, 0, 0].double()) - teacher[:, :, 0, 0]).square().mean()
    assert value.item() == pytest.approx(expected.item())
    value.backward()
    assert all(parameter.grad is None or not parameter.grad.abs().sum() for parameter in loss.query.parameters())


def test_no_attention_gives_the_variance_of_the_teacher() -> None:
    """Without queries, and with values of the teacher's mean, each position is predicted by the mean."""
    loss, (student, teacher, labels) = make_loss(4, 4), sample(3)
    with torch.no_grad():
        for linear in (loss.query[1], loss.value[1]):
            linear.weight.zero_()  # type: ignore[operator, union-attr]
            linear.bias.zero_()  # type: ignore[operator, union-attr]
    centred = teacher.double() - teacher.double().mean((2, 3), keepdim=True)
    assert loss(student.double(), centred, labels).item() == pytest.approx(centred.square().mean().item())


SAME: dict[str, Change] = {
    "the batch in another order": lambda *inputs: [x.flip(0) for x in inputs],
    "both maps mirrored": lambda s, t, y: (s.flip(3), t.flip(3), y),
    "a constant added to the student's channels": lambda s, t, y: (s + 3, t, y),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    loss = make_loss(4, 4)
    inputs = [x.double() if x.is_floating_point() else x for x in sample()]
    assert error(loss(*SAME[change](*inputs)), loss(*inputs)) <= 1e-10


def test_the_teacher_gets_no_gradient_and_all_parts_learn() -> None:
    loss, (student, teacher, labels) = make_loss(3, 5), sample(4, (3, 5))
    leaves = [x.double().requires_grad_() for x in (student, teacher)]
    loss(*leaves, labels).backward()
    assert leaves[1].grad is None
    assert leaves[0].grad is not None
    assert leaves[0].grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in loss.parameters())
