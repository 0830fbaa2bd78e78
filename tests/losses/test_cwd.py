from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.losses import CWDLoss, DKDLoss
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive import error_of, naive_cwd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def on_features(student_channels: int = 3, teacher_channels: int = 5, **options: str) -> CWDLoss:
    torch.manual_seed(0)
    return CWDLoss(student_channels, teacher_channels, on_logits=False, **options)


@pytest.mark.parametrize(("tau", "expected"), [(1.0, 0.130812), (4.0, 2.092993)])
def test_hand_computed_value(tau: float, expected: float) -> None:
    teacher = torch.tensor([0.0, tau * log(3)]).view(1, 1, 1, 2)
    assert CWDLoss(1, 1, tau=tau)(torch.zeros(1, 1, 1, 2), teacher).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("size", "tau"), [((5, 6), 4.0), ((3, 7), 1.5), ((1, 2), 1.0)])
def test_equals_the_loop_over_channels(size: tuple[int, int], tau: float) -> None:
    assert error_of(CWDLoss(K, K, tau=tau), naive_cwd, *sample(1, size=size)) <= 1e-5


@pytest.mark.parametrize("divide_by", ["teacher", "student"])
@pytest.mark.parametrize("align", ["conv", "conv-always", "conv-bn-relu"])
@pytest.mark.parametrize("channels", [(3, 5), (4, 4)])
def test_equals_the_loop_over_channels_of_features(channels: tuple[int, int], align: str, divide_by: str) -> None:
    loss = on_features(*channels, align=align, divide_by=divide_by)
    assert error_of(loss, naive_cwd, *sample(2, channels)) <= 1e-5


def test_cirkds_divisor_is_the_channels_before_the_convolution() -> None:
    ours, theirs = (on_features(divide_by=whose)(*sample(channels=(3, 5))) for whose in ("teacher", "student"))
    assert error(theirs, ours * 5 / 3) <= 1e-6


def test_it_is_the_region_wise_loss_where_everything_is_ignored() -> None:
    student, teacher, labels = sample()
    got = value_and_grad(CWDLoss(K, K), student, teacher, labels)
    expected = value_and_grad(DKDLoss(K, 4.0, 1.0, 1.0), student, teacher, 0 * labels + 255)
    assert max(error(a, b) for a, b in zip(got, expected, strict=True)) <= 1e-6


def test_zero_when_student_is_teacher() -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(CWDLoss(K, K), student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6


def test_zero_when_the_convolution_makes_the_teacher_of_the_student() -> None:
    loss = on_features(4, 4, align="conv-always")
    nn.init.dirac_(loss.align.weight)
    student, _, labels = sample()
    value, grad = value_and_grad(loss, student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6


def test_what_is_learned() -> None:
    assert not list(CWDLoss(K, K).parameters())
    assert not list(on_features(4, 4).parameters())  # a convolution only where channels differ, as in CIRKD
    for channels, align in (((3, 5), "conv"), ((3, 5), "conv-always"), ((4, 4), "conv-always")):
        loss = on_features(*channels, align=align)
        assert [tuple(p.shape) for p in loss.parameters()] == [(*channels[::-1], 1, 1)]
    assert [type(layer) for layer in on_features(align="conv-bn-relu").align] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


ORDER = torch.randperm(30, generator=torch.Generator().manual_seed(0))
SHIFT = torch.randn(2, K, 1, 1, generator=torch.Generator().manual_seed(5))
SAME: dict[str, Change] = {
    "student shifted in each channel": lambda s, t, y: (s + SHIFT, t, y),
    "teacher shifted in each channel": lambda s, t, y: (s, t + SHIFT, y),
    "positions permuted": lambda *inputs: [x.flatten(2)[..., ORDER].view_as(x) for x in inputs],
    "transposed": lambda *inputs: [x.transpose(2, 3) for x in inputs],
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "all ignored": lambda s, t, y: (s, t, 0 * y + 255),
    "ignored as -1": lambda s, t, y: (s, t, 0 * y - 1),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    assert error(CWDLoss(K, K)(*SAME[change](*sample())), CWDLoss(K, K)(*sample())) <= 1e-5


def test_features_with_equal_channels_are_compared_as_they_are() -> None:
    """CIRKD, mmrazor and the authors' second repository convolve only where channels differ."""
    student, teacher, labels = sample()
    got = value_and_grad(on_features(K, K), student, teacher, labels)
    assert all(
        torch.equal(*pair) for pair in zip(got, value_and_grad(CWDLoss(K, K), student, teacher, labels), strict=True)
    )


def test_strongly_peaked_maps_stay_finite() -> None:
    """CIRKD takes the logarithm of a softmax, which is minus infinity here."""
    student, teacher, labels = sample()
    value, grad = value_and_grad(CWDLoss(K, K), 1e4 * student, -1e4 * teacher, labels)
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("loss", [CWDLoss(K, K), on_features(K, K), on_features(K, K, align="conv-bn-relu")])
def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers(loss: CWDLoss) -> None:
    student, teacher, labels = sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), labels))
