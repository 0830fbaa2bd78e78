"""AttnFD against its formula, written out, and what is trained in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import AttnFDLoss
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive import error_of, naive_attnfd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
ATTENTION = ("random", "plain")


def make_loss(*channels: int, **options: object) -> AttnFDLoss:
    torch.manual_seed(0)
    return AttnFDLoss(*channels, **options).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("channels", [(4, 4), (3, 5), (32, 48)])
def test_equals_the_plain_form(channels: tuple[int, int], attention: str) -> None:
    loss = make_loss(*channels, teacher_attention=attention)
    assert error_of(loss, naive_attnfd, *sample(1, channels)) <= 1e-4


def test_millions_of_numbers_keep_the_digits_of_float32() -> None:
    student, teacher, labels = sample(1, (128, 128), (160, 160))
    loss = make_loss(128, 128, teacher_attention="plain")
    expected = value_and_grad(loss, student.double(), teacher.double(), labels)
    value, grad = value_and_grad(loss.float(), student, teacher, labels)
    assert error(value.double(), expected[0]) <= 1e-6
    assert (grad - expected[1]).norm() <= 1e-4 * expected[1].norm()


def test_two_maps_of_one_direction_have_no_loss_and_opposite_ones_four() -> None:
    """Unit vectors: |u - u|^2 = 0 and |u + u|^2 = 4, for one image."""
    loss = make_loss(4, 4)
    _, teacher, labels = sample()
    target = loss.teacher_attention(teacher[:1].double())
    loss.attention, loss.align = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
    assert loss(7 * target, teacher[:1].double(), labels[:1]).item() == pytest.approx(0, abs=1e-12)
    assert loss(-target, teacher[:1].double(), labels[:1]).item() == pytest.approx(4)


def test_what_is_trained() -> None:
    trained = {name for name, value in make_loss(32, 48).named_parameters() if value.requires_grad}
    released = {"attention.conv.weight", "attention.norm.weight", "attention.norm.bias"}
    released |= {"align.0.weight", "align.1.weight", "align.1.bias"}
    assert trained == released
    with_gate = {name for name, v in make_loss(32, 48, train_channel_gate=True).named_parameters() if v.requires_grad}
    assert with_gate - released == {f"attention.mlp.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    assert not list(make_loss(32, 48, teacher_attention="plain").teacher_attention.parameters())


SAME: dict[str, Change] = {
    "teacher's batch in another order with the student's": lambda *inputs: [x.flip(0) for x in inputs],
}


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str, attention: str) -> None:
    loss = make_loss(4, 4, teacher_attention=attention)
    inputs = [x.double() if x.is_floating_point() else x for x in sample()]
    assert error(loss(*SAME[change](*inputs)), loss(*inputs)) <= 1e-10


def test_a_batch_that_is_given_twice_has_half_the_value() -> None:
    """Lengths are those of the whole batch, and the sum is divided by B."""
    loss = make_loss(4, 4)
    inputs = [x.double() if x.is_floating_point() else x for x in sample()]
    assert error(2 * loss(*(torch.cat([x, x]) for x in inputs)), loss(*inputs)) <= 1e-6


def test_an_unknown_attention_is_an_error() -> None:
    with pytest.raises(RmrkdError, match="teacher_attention must be one of random, plain, got `trained`"):
        make_loss(4, 4, teacher_attention="trained")
