"""Both parts of DSD: PSD and CSD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import CSDLoss, PSDLoss
from rmrkd_cli.presets.methods import load_method
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive import error_of, naive_csd, naive_psd

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
Maps = tuple[Tensor, ...]
CHANNELS = ((4, 6, 4), (4, 9, 4))  # auxiliary logits, head, logits


def several(seed: int = 0, size: tuple[int, int] = (5, 6), count: int = 3) -> tuple[Maps, Maps]:
    """Maps of a student and a teacher."""
    pairs = [sample(seed + i, channels, size)[:2] for i, channels in enumerate(zip(*CHANNELS, strict=True))][:count]
    student, teacher = zip(*pairs, strict=True)
    return student, teacher


def psd_value_and_grads(loss: PSDLoss, student: Maps, teacher: Maps) -> tuple[Tensor, list[Tensor]]:
    leaves = tuple(x.clone().requires_grad_() for x in student)
    value = loss(leaves, teacher)
    return value.detach(), list(torch.autograd.grad(value, leaves))


def test_hand_computed_value_of_psd() -> None:
    """Attention (1, 0), then (0, 1), against (1, 0), then (0.6, 0.8): changes (-1, 1)/sqrt 2 and (-1, 2)/sqrt 5."""
    before = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    ours, theirs = torch.tensor([0.0, 5.0]).view(1, 1, 1, 2), torch.tensor([6.0, 8.0]).sqrt().view(1, 1, 1, 2)
    value = PSDLoss((1, 1), (1, 1))((before, ours), (before, theirs))
    expected = (1 / 2**0.5 - 1 / 5**0.5) ** 2 + (1 / 2**0.5 - 2 / 5**0.5) ** 2
    assert value.item() == pytest.approx(expected / 2, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("size", [(5, 6), (3, 7)])
def test_psd_equals_the_loop_over_pairs(size: tuple[int, int], count: int) -> None:
    loss = PSDLoss(*(channels[:count] for channels in CHANNELS))
    assert error_of(loss, naive_psd, *several(1, size, count)) <= 1e-5


def test_psd_is_zero_when_student_is_teacher() -> None:
    student, _ = several()
    value, grads = psd_value_and_grads(PSDLoss(CHANNELS[0], CHANNELS[0]), student, student)
    assert max(value, *(grad.abs().max() for grad in grads)) == 0


def test_psd_is_unchanged_by_the_scale_of_any_map() -> None:
    student, teacher = several()
    scales = torch.tensor([[0.2, 3.0], [7.0, 1.0], [1.0, 0.1]]).view(3, 2, 1, 1, 1)
    loss = PSDLoss(*CHANNELS)
    scaled = [tuple(c * x for c, x in zip(scales, maps, strict=True)) for maps in (student, teacher)]
    assert error(loss(scaled[0], teacher), loss(student, teacher)) <= 1e-5
    assert error(loss(student, scaled[1]), loss(student, teacher)) <= 1e-5


def test_psd_is_at_most_4_over_the_positions() -> None:
    student, _ = several(count=2)
    opposite = PSDLoss((4, 6), (6, 4))(student, student[::-1])
    assert opposite.item() == pytest.approx(4 / 30, rel=1e-5)


def test_attention_of_unequal_sizes_is_averaged_down_to_the_smallest() -> None:
    student, teacher = several()
    big = [
        tuple(F.interpolate(x, scale_factor=k) for k, x in zip((1, 2, 3), m, strict=True)) for m in (student, teacher)
    ]
    value, grads = psd_value_and_grads(PSDLoss(*CHANNELS), *big)
    expected, small = psd_value_and_grads(PSDLoss(*CHANNELS), student, teacher)
    assert error(value, expected) <= 1e-5
    for k, got, want in zip((1, 2, 3), grads, small, strict=True):
        assert error(F.avg_pool2d(got, k, divisor_override=1), want) <= 1e-5


def test_psd_ignores_labels() -> None:
    student, teacher = several()
    values = {PSDLoss(*CHANNELS)(student, teacher, torch.full((2, 1, 40, 48), y)).item() for y in (0, 255, -1)}
    assert values == {PSDLoss(*CHANNELS)(student, teacher).item()}


def test_psds_teachers_get_no_gradient() -> None:
    student, teacher = (tuple(x.requires_grad_() for x in maps) for maps in several())
    PSDLoss(*CHANNELS)(student, teacher).backward()
    assert all(x.grad.any() for x in student)
    assert [x.grad for x in teacher] == [None] * 3


@pytest.mark.parametrize("level", [0.0, 1e-8, 1.0])
def test_constant_maps_stay_finite(level: float) -> None:
    student, teacher = several()
    constant = tuple(torch.full_like(x, level) for x in student)
    for ours in (constant, (student[0], *constant[1:]), (constant[0], *student[1:])):
        value, grads = psd_value_and_grads(PSDLoss(*CHANNELS), ours, teacher)
        assert value.isfinite()
        assert all(grad.isfinite().all() for grad in grads)


def test_psd_takes_any_memory_layout_and_precision() -> None:
    student, teacher = several()
    loss = PSDLoss(*CHANNELS)
    expected, grads = psd_value_and_grads(loss, student, teacher)
    last = [tuple(x.contiguous(memory_format=torch.channels_last) for x in maps) for maps in (student, teacher)]
    value, got = psd_value_and_grads(loss, *last)
    assert error(value, expected) <= 1e-5
    assert max(error(a, b) for a, b in zip(got, grads, strict=True)) <= 1e-5
    rounded = [tuple(x.bfloat16() for x in maps) for maps in (student, teacher)]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*rounded)
    assert (value.dtype, value) == (torch.float32, loss(*(tuple(x.float() for x in maps) for maps in rounded)))


def test_maps_that_do_not_fit_psd_are_refused() -> None:
    student, teacher = several()
    loss = PSDLoss(*CHANNELS)
    with pytest.raises(RmrkdError, match=r"built for 3 maps, got 2 \(student\) and 3 \(teacher\)"):
        loss(student[:2], teacher)
    with pytest.raises(RmrkdError, match="must have the same batch size"):
        loss(student, (teacher[0], teacher[1][..., :3], teacher[2]))
    with pytest.raises(RmrkdError, match=r"channels, expected \(6, 9\)"):
        loss((student[0], student[1][:, :3], student[2]), teacher)
    with pytest.raises(RmrkdError, match="2 or more maps of both networks, got 1 of the student's and 1"):
        PSDLoss((4,), (4,))


def test_hand_computed_value_of_csd() -> None:
    """One class over two pooled positions: (1/2, 1/2) against (1/4, 3/4), hence 1/2 against 5/8."""
    teacher = torch.zeros(1, 1, 2, 4)
    teacher[..., 2:] = 4 * log(3)
    assert CSDLoss(1)(torch.zeros(1, 1, 2, 4), teacher).item() == pytest.approx(1 / 64, abs=1e-6)


@pytest.mark.parametrize(("size", "tau"), [((5, 6), 4.0), ((4, 8), 1.0), ((3, 7), 2.0)])
def test_csd_equals_the_loop_over_pairs(size: tuple[int, int], tau: float) -> None:
    assert error_of(CSDLoss(K, tau), naive_csd, *sample(1, size=size)) <= 1e-5


def test_csd_is_zero_when_student_is_teacher() -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(CSDLoss(K), student, student, labels)
    assert max(value, grad.abs().max()) == 0


SHIFT = torch.randn(2, K, 1, 1, generator=torch.Generator().manual_seed(5))
SAME: dict[str, Change] = {
    "student shifted in each channel": lambda s, t, y: (s + SHIFT, t, y),
    "teacher shifted in each channel": lambda s, t, y: (s, t + SHIFT, y),
    "transposed": lambda *inputs: [x.transpose(2, 3) for x in inputs],
    "classes turned": lambda s, t, y: (s.roll(1, 1), t.roll(1, 1), y),
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "all ignored": lambda s, t, y: (s, t, 0 * y + 255),
    "ignored as -1": lambda s, t, y: (s, t, 0 * y - 1),
}


@pytest.mark.parametrize("change", SAME)
def test_csd_is_unchanged_with(change: str) -> None:
    assert error(CSDLoss(K)(*SAME[change](*sample())), CSDLoss(K)(*sample())) <= 1e-4


def test_csd_in_bfloat16_and_autocast_is_the_float32_value_of_the_rounded_numbers() -> None:
    student, teacher, labels = sample()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = CSDLoss(K)(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, CSDLoss(K)(student.float(), teacher.float(), labels))


def test_csd_has_hardly_any_gradient_on_a_student_that_is_near_uniform() -> None:
    """As a new student is; so its recipe gives a weight for every data set, and leaves none to the rule."""
    student, teacher, labels = sample()
    _, later = value_and_grad(CSDLoss(K), student, teacher, labels)
    _, first = value_and_grad(CSDLoss(K), 1e-3 * student, teacher, labels)
    assert first.norm() <= 1e-2 * later.norm()
    assert load_method("dsd").losses["csd"].weight == 10
