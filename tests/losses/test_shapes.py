from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import CIRKDLoss, CIRKDMemoryLoss, DKDLoss, IDDLoss, IFVDLoss, MGDLoss, RMRKDLoss, SKDLoss

LABELLED: list[Callable[[], nn.Module]] = [
    lambda: RMRKDLoss(4, 4, 4),
    lambda: IDDLoss(4, 4, 4),
    lambda: IFVDLoss(4, 4, 4),
    lambda: DKDLoss(4),
    lambda: CIRKDMemoryLoss(4, 4, 4, pixel_queue=30, region_queue=5),
]
UNLABELLED: list[Callable[[], nn.Module]] = [
    lambda: MGDLoss(4, 4),
    lambda: SKDLoss(4, 4),
    lambda: CIRKDLoss(4, 4),
]
MAP, LABELS = torch.randn(2, 4, 3, 3), torch.zeros(2, 1, 6, 6, dtype=torch.long)


@pytest.mark.parametrize("make", LABELLED)
@pytest.mark.parametrize("shape", [(1, 1, 6, 6), (2, 6, 6), (2, 2, 6, 6)])
def test_labels_must_be_one_map_an_image(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(RmrkdError, match=r"labels must have shape \(2, 1, H, W\)"):
        make()(MAP, MAP, torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("make", [*LABELLED, *UNLABELLED])
def test_channels_must_be_those_it_was_built_for(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(RmrkdError, match=r"4 \(student\) and 3 \(teacher\) channels, expected \(4, 4\)"):
        make()(MAP, MAP[:, :3], LABELS)


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 4, 3, 3), (1, 1, 3, 3)])
def test_a_mask_must_be_one_value_a_position(shape: tuple[int, ...]) -> None:
    with pytest.raises(RmrkdError, match="keep_mask must be"):
        MGDLoss(4, 4)(MAP, MAP, keep_mask=torch.ones(shape))


def test_an_ignored_minus_one_makes_no_class_at_a_border() -> None:
    student, teacher = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    labels = torch.full((1, 1, 8, 8), 1)
    labels[..., :1] = -1  # its blend with 1 would truncate to class 0
    minus = RMRKDLoss(4, 4, 3, ignore_index=-1)(student, teacher, labels)
    plus = RMRKDLoss(4, 4, 3)(student, teacher, labels.masked_fill(labels == -1, 255))
    assert torch.equal(minus, plus)
