"""BPKD against its definition, position by position, and what its regions are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import BPKDLoss, CWDLoss
from rmrkd_cli.losses.bpkd import _dilate
from tests.losses.common import K, error, sample, value_and_grad
from tests.losses.naive import error_of
from tests.losses.naive_regions import naive_bpkd, naive_regions

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "inner": {"body": "inner"},
    "classes": {"edge_softmax": "classes", "edge_weight": 0.3},
    "wide": {"edge_width": 2, "tau": 0.7, "body_weight": 2.0},
    "wider than the map": {"edge_width": 65_536},
    "at the labels": {"resize": "logits", "body": "inner", "edge_softmax": "classes"},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def blocks(seed: int = 0, size: tuple[int, int] = (9, 11)) -> Tensor:
    """(2, 1, H, W) regions of several positions a side, with a few ignored positions; class 3 is in one image."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 3, (2, 1, 4, 4), generator=draw)
    coarse[0, 0, 0, 0] = 3
    labels = torch.nn.functional.interpolate(coarse.float(), size, mode="nearest").long()
    return labels.masked_fill(torch.rand(labels.shape, generator=draw) < 0.05, 255)


@each_option
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_loop_over_positions(options: dict[str, Any], seed: int) -> None:
    student, teacher, _ = sample(seed, size=(9, 11))
    labels = blocks(seed, (18, 22) if options.get("resize") == "logits" else (9, 11))
    assert error_of(BPKDLoss(K, **options), naive_bpkd, student, teacher, labels) <= 1e-5


def test_the_regions_of_a_square() -> None:
    """A square of class 1 in class 0, at the border of the image, with ignored positions beside it."""
    labels = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 255, 0, 0], [1, 1, 1, 255, 0, 0]])
    edge, body = (region[0].view(2, 4, 6) for region in BPKDLoss(2)._regions(labels[None]))
    assert drawn(edge[0]) == ["......", "#####.", "###.#.", "....#."]
    assert drawn(edge[1]) == ["......", "####..", "###...", "..#..."]
    assert drawn(body[1]) == ["######", "....##", "....##", "##..##"]
    inner = BPKDLoss(2, body="inner")._regions(labels[None])[1][0].view(2, 4, 6)
    assert drawn(inner[0]) == ["######", ".....#", ".....#", ".....#"]
    assert drawn(inner[1]) == ["......", "......", "......", "##...."]


@pytest.mark.parametrize("width", range(1, 12))
def test_one_position_reaches_its_window_and_no_further(width: int) -> None:
    for row, column in ((0, 0), (4, 5), (8, 10), (8, 3)):
        masks = torch.zeros(1, 9, 11, dtype=torch.bool)
        masks[0, row, column] = True
        rows, columns = (torch.arange(9) - row).abs() <= width, (torch.arange(11) - column).abs() <= width
        assert torch.equal(_dilate(masks, width)[0], rows[:, None] & columns)


def drawn(mask: Tensor) -> list[str]:
    return ["".join("#" if cell else "." for cell in row) for row in mask.tolist()]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
def test_regions_are_those_of_every_position_and_its_window(width: int) -> None:
    labels = blocks(2)
    for body in ("rest", "inner"):
        loss = BPKDLoss(K, edge_width=width, body=body)
        got = [region.view(2, K, 9, 11) for region in loss._regions(labels[:, 0])]
        for image in range(2):
            for k in range(K):
                want = naive_regions(labels[image, 0], k, K, loss)
                assert all(torch.equal(ours[image, k], theirs) for ours, theirs in zip(got, want, strict=True))


def test_hand_computed_value() -> None:
    """Of two classes side by side in one row, each has an edge of two positions and a body of two."""
    labels = torch.tensor([0, 0, 1, 1]).view(1, 1, 1, 4)
    teacher = torch.zeros(1, 2, 1, 4)
    teacher[0, 0, 0, 1] = 4 * log(3)  # class 0 at one position of its edge: 3/4 and 1/4 at temperature 4
    one = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    value = BPKDLoss(2)(torch.zeros(1, 2, 1, 4), teacher, labels)
    assert value.item() == pytest.approx(16 * one / 2, abs=1e-5)
    half = BPKDLoss(2, edge_weight=0.5)(torch.zeros(1, 2, 1, 4), teacher, labels)
    assert half.item() == pytest.approx(8 * one / 2, abs=1e-5)
    assert BPKDLoss(2, edge_weight=0.0)(torch.zeros(1, 2, 1, 4), teacher, labels).item() == pytest.approx(0, abs=1e-6)


def test_it_is_cwd_where_one_class_is_everywhere() -> None:
    """No class has an edge there, and the body of each is the whole image."""
    student, teacher, labels = sample()
    got = value_and_grad(BPKDLoss(K), student, teacher, 0 * labels)
    want = value_and_grad(CWDLoss(K, K), student, teacher, labels)
    assert max(error(a, b) for a, b in zip(got, want, strict=True)) <= 1e-5


ORDER = [2, 0, 3, 1]
SHIFT = torch.randn(2, K, 1, 1, generator=torch.Generator().manual_seed(5))
SAME: dict[str, Change] = {
    "student shifted in each channel": lambda s, t, y: (s + SHIFT, t, y),
    "teacher shifted in each channel": lambda s, t, y: (s, t + SHIFT, y),
    "transposed": lambda *inputs: [x.transpose(2, 3) for x in inputs],
    "mirrored": lambda *inputs: [x.flip(3) for x in inputs],
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "labels twice as large": lambda s, t, y: (s, t, y.repeat_interleave(2, 2).repeat_interleave(2, 3)),
    "ignored as -1": lambda s, t, y: (s, t, y.masked_fill(y == 255, -1)),
    "classes in another order": lambda s, t, y: (
        s[:, ORDER], t[:, ORDER], torch.where(y == 255, y, torch.tensor(ORDER).argsort()[y.clamp_max(K - 1)])
    ),
    "other logits where ignored": lambda s, t, y: (torch.where(y == 255, s + 7, s), torch.where(y == 255, -t, t), y),
}  # fmt: skip


@pytest.mark.parametrize("change", SAME)
def test_value_is_unchanged_with(change: str) -> None:
    student, teacher, _ = sample(size=(9, 11))
    inputs = student, teacher, blocks()
    loss = BPKDLoss(K)
    assert error(loss(*SAME[change](*inputs)), loss(*inputs)) <= 1e-5


@each_option
def test_zero_when_student_is_teacher_and_no_gradient_for_the_teacher(options: dict[str, Any]) -> None:
    student, teacher, _ = sample(size=(9, 11))
    value, grad = value_and_grad(BPKDLoss(K, **options), student, student, blocks())
    assert max(value.abs(), grad.abs().max()) <= 1e-6
    teacher.requires_grad_()
    assert not BPKDLoss(K, **options)(student, teacher, blocks()).requires_grad


@each_option
@pytest.mark.parametrize("ignored", [255, -1, K])
def test_all_ignored_gives_zero_and_a_zero_gradient(options: dict[str, Any], ignored: int) -> None:
    student, teacher, labels = sample()
    value, grad = value_and_grad(BPKDLoss(K, **options), student, teacher, 0 * labels + ignored)
    assert (value.item(), grad.any().item()) == (0.0, False)


@each_option
def test_ignored_positions_get_no_gradient(options: dict[str, Any]) -> None:
    student, teacher, _ = sample(size=(9, 11))
    labels = blocks()  # at the size of the maps, where nothing is resized
    _, grad = value_and_grad(BPKDLoss(K, **options), student, teacher, labels)
    assert grad.isfinite().all()
    assert not grad.movedim(1, -1)[labels[:, 0] == 255].any()


@each_option
def test_strongly_peaked_maps_stay_finite(options: dict[str, Any]) -> None:
    student, teacher, _ = sample(size=(9, 11))
    value, grad = value_and_grad(BPKDLoss(K, **options), 1e4 * student, -1e4 * teacher, blocks())
    assert value.isfinite()
    assert grad.isfinite().all()


@each_option
def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers(options: dict[str, Any]) -> None:
    student, teacher, _ = sample(size=(9, 11))
    student, teacher = student.bfloat16(), teacher.bfloat16()
    loss = BPKDLoss(K, **options)
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(loss, student, teacher, blocks())
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), blocks()))
    assert grad.isfinite().all()


def test_unknown_choices_are_errors() -> None:
    with pytest.raises(RmrkdError, match="edge_softmax must be one of positions, classes, got `pixels`"):
        BPKDLoss(K, edge_softmax="pixels")  # type: ignore[arg-type]
    with pytest.raises(RmrkdError, match="body must be one of rest, inner, got `all`"):
        BPKDLoss(K, body="all")  # type: ignore[arg-type]
