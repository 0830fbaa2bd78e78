from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.losses import PKDLoss
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive import error_of, naive_pkd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
N = 60  # positions of a sample's two images


def make_loss(*channels: int) -> PKDLoss:
    torch.manual_seed(0)
    return PKDLoss(*channels)


def test_hand_computed_value() -> None:
    student, teacher = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2), torch.tensor([0.0, -2.0]).view(1, 1, 1, 2)
    assert make_loss(1, 1)(student, teacher).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("channels", [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("size", [(5, 6), (3, 7), (1, 1)])
def test_equals_the_loop_over_channels(channels: tuple[int, int], size: tuple[int, int]) -> None:
    images = [sample(seed, channels, size) for seed in (1, 2)]  # over two positions a correlation has no gradient
    assert _error(make_loss(*channels), *(torch.cat(parts) for parts in zip(*images, strict=True))) <= 1e-5


def _error(loss: PKDLoss, *inputs: Tensor) -> float:
    """The bias of a convolution cancels: its gradient is rounding alone, on both sides."""
    if isinstance(loss.align, nn.Conv2d):
        loss.align.bias.requires_grad_(False)
        loss.align = _WithoutBias(loss.align)
    return error_of(loss, naive_pkd, *inputs)


class _WithoutBias(nn.Module):
    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = convolution.weight

    def forward(self, maps: Tensor) -> Tensor:
        return nn.functional.conv2d(maps, self.weight)


def test_it_is_one_minus_the_mean_correlation() -> None:
    student, teacher, labels = sample()
    rows = torch.cat([x.transpose(0, 1).flatten(1) for x in (student, teacher)])
    correlations = torch.corrcoef(rows)[:4, 4:].diagonal()
    assert error(make_loss(4, 4)(student, teacher, labels), (1 - correlations.mean()) * (N - 1) / N) <= 1e-5


def test_zero_when_student_is_teacher() -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(make_loss(4, 4), student, student, labels)
    assert max(value, grad.abs().max()) <= 1e-6


def test_opposite_channels() -> None:
    student, _, labels = sample()
    assert make_loss(4, 4)(student, -3 * student + 1, labels).item() == pytest.approx(2 * (N - 1) / N, rel=1e-5)


SCALE = torch.tensor([0.2, 7.0, 1.0, 30.0]).view(1, 4, 1, 1)
ORDER = torch.randperm(30, generator=torch.Generator().manual_seed(0))
SAME: dict[str, Change] = {
    "student of another level and scale": lambda s, t, y: (SCALE * s - 2 * SCALE, t, y),
    "teacher of another level and scale": lambda s, t, y: (s, SCALE * t + 3, y),
    "positions permuted": lambda *inputs: [x.flatten(2)[..., ORDER].view_as(x) for x in inputs],
    "images side by side": lambda *inputs: [torch.cat(x.split(1), 3) for x in inputs],
    "all ignored": lambda s, t, y: (s, t, 0 * y + 255),
    "ignored as -1": lambda s, t, y: (s, t, 0 * y - 1),
}


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    assert error(make_loss(4, 4)(*SAME[change](*sample())), make_loss(4, 4)(*sample())) <= 1e-5


def test_a_batch_that_is_given_twice_changes_the_degrees_of_freedom_alone() -> None:
    once, twice = make_loss(4, 4)(*sample()), make_loss(4, 4)(*(torch.cat([x, x]) for x in sample()))
    assert error(twice / ((2 * N - 1) / (2 * N)), once / ((N - 1) / N)) <= 1e-5


def test_channels_that_differ_are_aligned() -> None:
    assert not list(make_loss(4, 4).parameters())
    assert {name: tuple(p.shape) for name, p in make_loss(3, 5).named_parameters()} == {
        "align.weight": (5, 3, 1, 1),
        "align.bias": (5,),
    }


@pytest.mark.parametrize("level", [0.0, 0.5, 1e4])
def test_channels_that_do_not_vary_stay_finite(level: float) -> None:
    student, teacher, labels = sample()
    constant = torch.full_like(student, level)
    for inputs in ((constant, teacher), (student, constant), (constant, constant)):
        value, grad = value_and_grad(make_loss(4, 4), *inputs, labels)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_a_channel_that_does_not_vary_has_the_sources_gradient() -> None:
    """-t / (1e-6 n C), for t the standardised teacher."""
    _, teacher, labels = sample()
    _, grad = value_and_grad(make_loss(4, 4), torch.zeros_like(teacher), teacher, labels)
    deviation, mean = torch.std_mean(teacher, (0, 2, 3), keepdim=True)
    assert error(grad, -(teacher - mean) / deviation / (1e-6 * teacher.numel())) <= 1e-5


def test_one_position_alone_does_not_vary() -> None:
    value, grad = value_and_grad(make_loss(4, 4), torch.ones(1, 4, 1, 1), torch.zeros(1, 4, 1, 1), None)
    assert value == 0
    assert not grad.any()


def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers() -> None:
    student, teacher, labels = sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = make_loss(4, 4)(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, make_loss(4, 4)(student.float(), teacher.float(), labels))
