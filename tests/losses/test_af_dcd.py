"""Af-DCD against its definition, piece by piece, and what its parts respond to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import AfDCDLoss, MGDLoss, af_dcd
from tests.losses.common import error, sample, value_and_grad
from tests.losses.naive import error_of, naive_af_dcd


def make_loss(*channels: int, **options: object) -> AfDCDLoss:
    torch.manual_seed(0)
    return AfDCDLoss(*channels, **{"mask": "centre", **options}).double()  # type: ignore[arg-type]


def inputs(channels: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    student, teacher, _ = sample(1, channels, size)
    return student.double(), teacher.double()


@pytest.mark.parametrize(
    ("channels", "size", "groups", "pool"),
    [
        ((4, 4), (4, 4), 2, 1),
        ((3, 6), (5, 10), 3, 1),
        ((3, 4), (9, 8), 4, 2),
        ((2, 4), (16, 19), 2, 4),
        ((2, 4), (12, 21), 2, 4),
        ((2, 4), (3, 9), 2, 4),
    ],
)
def test_equals_the_plain_form(channels: tuple[int, int], size: tuple[int, int], groups: int, pool: int) -> None:
    loss = make_loss(*channels, groups=groups, pool=pool, tau=0.7, feature_weight=0.3, contrast_weight=2.0)
    assert error_of(loss, naive_af_dcd, *sample(1, channels, size)) <= 1e-4


def test_autocast_is_close_to_float32() -> None:
    student, teacher, _ = sample(1, (3, 16), (16, 16))
    loss = make_loss(3, 16, contrast_weight=1.0).float()
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(loss, student, teacher, None)
    expected, expected_grad = value_and_grad(loss, student, teacher, None)
    assert value.dtype == torch.float32
    assert value != expected  # the convolutions of MGD ran in bfloat16
    assert error(value, expected) <= 1e-2
    assert (grad - expected_grad).norm() <= 5e-2 * expected_grad.norm()


def test_without_contrast_it_is_mgd() -> None:
    student, teacher = inputs((3, 16), (16, 16))
    loss = make_loss(3, 16, contrast_weight=0.0, feature_weight=2.0)
    mgd = MGDLoss(3, 16).double()
    mgd.load_state_dict(loss.mgd.state_dict())
    keep = loss.draw_mask(student)
    assert error(loss(student, teacher), 2 * mgd(student, teacher, None, keep)) <= 1e-12


def test_equal_distances_give_the_logarithm_of_the_pieces() -> None:
    """All teacher's pieces are zero, so each has one positive and 16 * (groups - 1) negatives of one distance."""
    loss = make_loss(2, 8, groups=4, pool=1, feature_weight=0.0, contrast_weight=1.0)
    student, _ = inputs((2, 8), (8, 4))
    value = loss(student, torch.zeros(2, 8, 8, 4, dtype=torch.float64))
    assert value.item() == pytest.approx(4 * math.log(1 + 16 * 3))


def test_the_centre_is_a_third_of_rows_and_columns() -> None:
    mask = make_loss(3, 16).draw_mask(torch.zeros(1, 3, 7, 9))[0, 0]
    hidden = [(y, x) for y in range(7) for x in range(9) if not mask[y, x]]
    assert hidden == [(y, x) for y in (2, 3) for x in (3, 4, 5)]
    assert 0.6 < 1 - AfDCDLoss(3, 16).draw_mask(torch.zeros(8, 3, 30, 30)).mean() < 0.9


def test_maps_of_less_than_16_positions_are_pooled_less() -> None:
    student, teacher = inputs((3, 16), (15, 12))
    expected = value_and_grad(make_loss(3, 16, pool=3), student, teacher, torch.zeros(()))
    got = value_and_grad(make_loss(3, 16), student, teacher, torch.zeros(()))
    assert expected[0] > 0
    assert all(map(torch.equal, got, expected))


def test_patches_in_several_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = inputs((3, 8), (12, 13))
    loss = make_loss(3, 8, groups=4, pool=1)
    whole = value_and_grad(loss, student, teacher, torch.zeros(()))
    monkeypatch.setattr(af_dcd, "_AT_ONCE", 4 * 64**2 * 2)  # four patches of 64 pieces of 2 channels
    blocks = value_and_grad(loss, student, teacher, torch.zeros(()))
    assert max(map(error, blocks, whole)) <= 1e-12


def test_groups_of_channels_that_are_no_multiple_are_their_greatest_common_divisor() -> None:
    assert [AfDCDLoss(3, channels).groups for channels in (320, 24, 18)] == [16, 8, 2]
    with pytest.raises(RmrkdError, match="mask must be one of random, centre, got `half`"):
        make_loss(3, 16, mask="half")


@pytest.mark.parametrize(
    ("channels", "groups", "hint"), [(257, 16, "groups=257"), (21, 16, "groups=3"), (4, 1, "groups=2")]
)
def test_a_single_group_is_refused(channels: int, groups: int, hint: str) -> None:
    with pytest.raises(RmrkdError, match="one group has nothing to contrast with") as caught:
        AfDCDLoss(3, channels, groups=groups)
    assert caught.value.hint == hint
    assert AfDCDLoss(3, channels, groups=groups, contrast_weight=0).groups == 1
