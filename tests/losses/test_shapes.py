"""What every loss requires of its inputs, and that the teacher gets no gradient."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses import LOSSES, AdversarialLoss, CWDLoss, DistillationLoss, MGDLoss, RMRKDLoss
from rmrkd_cli.presets.loss_schema import needs_labels

CHANNELS = 4
SIZE = (2, CHANNELS, 5, 6)
LABELS = torch.zeros(2, 1, 10, 12, dtype=torch.long)
NEEDS_LABELS = {"bpkd", "cirkd_memory", "cirkdv2", "dkd", "idd", "ifvd", "rmrkd"}
OTHER_SHAPES = {
    "batch size": (1, 4, 5, 6), "height": (2, 4, 4, 6), "width": (2, 4, 5, 3), "dimensions": (4, 5, 6),
}  # fmt: skip
each_type = pytest.mark.parametrize("loss_type", LOSSES)


def make(loss_type: str) -> DistillationLoss:
    """Return a loss for maps of `CHANNELS` channels, or for two such maps."""
    cls: Any = LOSSES[loss_type]
    given: dict[str, Any] = dict.fromkeys(("student_channels", "teacher_channels", "num_classes"), CHANNELS)
    given["map_size"] = SIZE[2:]
    if loss_type == "psd":
        given.update(student_channels=(CHANNELS, CHANNELS), teacher_channels=(CHANNELS, CHANNELS))
    names = inspect.signature(cls).parameters
    loss: DistillationLoss = cls(**{name: value for name, value in given.items() if name in names})
    return loss


def call(loss: DistillationLoss, student: Tensor, teacher: Tensor, *labels: Tensor | None) -> Any:
    """Call a loss on two maps; one that compares several gets each twice."""
    if isinstance(loss.channels[0], tuple):
        return loss((student, 2 * student.square()), (teacher, 2 * teacher.square()), *labels)
    return loss(student, teacher, *labels)


@each_type
@pytest.mark.parametrize("other", OTHER_SHAPES)
def test_maps_of_another_shape_are_rejected(loss_type: str, other: str) -> None:
    teacher = torch.zeros(OTHER_SHAPES[other])
    with pytest.raises(RmrkdError, match="must have the same batch size, height and width") as caught:
        call(make(loss_type), torch.zeros(SIZE), teacher, LABELS)
    assert "F.interpolate(teacher, student.shape[2:]" in caught.value.hint


@each_type
def test_other_channels_than_the_constructor_got_are_rejected(loss_type: str) -> None:
    student = torch.zeros(SIZE)
    with pytest.raises(RmrkdError, match=r"4 \(student\) and 3 \(teacher\) channels, expected \(4, 4\)"):
        call(make(loss_type), student, student[:, :3], LABELS)
    with pytest.raises(RmrkdError, match=r"3 \(student\) and 4 \(teacher\) channels, expected \(4, 4\)"):
        call(make(loss_type), student[:, :3], student, LABELS)


@each_type
def test_labels_are_required_only_where_they_are_used(loss_type: str) -> None:
    student, teacher = torch.randn(SIZE), torch.randn(SIZE)
    assert make(loss_type).needs_labels == (loss_type in NEEDS_LABELS)
    if loss_type not in NEEDS_LABELS:
        call(make(loss_type), student, teacher)
        return
    for labels in ((), (None,)):
        with pytest.raises(RmrkdError, match=f"{LOSSES[loss_type].__name__} needs labels, got None"):
            call(make(loss_type), student, teacher, *labels)
    for shape in ((1, 1, 6, 6), (2, 6, 6), (2, 2, 6, 6)):
        with pytest.raises(RmrkdError, match=r"labels must have shape \(2, 1, H, W\)"):
            call(make(loss_type), student, teacher, torch.zeros(shape, dtype=torch.long))
    with pytest.raises(RmrkdError, match=r"labels must have shape \(2, 1, H, W\), got \(2, 6, 6\)") as caught:
        call(make(loss_type), student, teacher, torch.zeros((2, 6, 6), dtype=torch.long))
    assert "labels[:, None]" in caught.value.hint
    with pytest.raises(RmrkdError, match=r"labels must be integers, got torch.float32") as caught:
        call(make(loss_type), student, teacher, torch.zeros(2, 1, 6, 6))
    assert caught.value.hint == "labels.long()"


OPTIONS: list[dict[str, Any]] = [
    *({"type": loss_type} for loss_type in LOSSES),
    *({"type": "kd", "reduction": word} for word in ("elements", "skd", "mmrazor", "mmrazor-mean")),
    *({"type": "cwd", "on_logits": False, "align": word} for word in ("conv", "conv-bn-relu")),
    {"type": "adversarial", "objective": "wgan-gp"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_the_teacher_gets_no_gradient(options: dict[str, Any]) -> None:
    options = dict(options)
    loss = make(options.pop("type"))
    if isinstance(loss, CWDLoss) and options:
        loss = CWDLoss(CHANNELS, CHANNELS, **options)
    elif options:
        loss = type(loss)(CHANNELS, **options)  # type: ignore[arg-type]
    student, teacher = torch.randn(SIZE, requires_grad=True), torch.randn(SIZE, requires_grad=True)
    labels = torch.arange(2 * 5 * 6).view(2, 1, 5, 6) % CHANNELS
    result = call(loss, student, teacher, labels)
    (sum(result.values()) if isinstance(loss, AdversarialLoss) else result).backward()
    assert student.grad is not None
    assert student.grad.any()
    assert teacher.grad is None


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 4, 5, 6), (1, 1, 5, 6)])
def test_a_mask_must_be_one_value_a_position(shape: tuple[int, ...]) -> None:
    with pytest.raises(RmrkdError, match="keep_mask must be"):
        MGDLoss(4, 4)(torch.zeros(SIZE), torch.zeros(SIZE), keep_mask=torch.ones(shape))


def test_an_ignored_minus_one_makes_no_class_at_a_border() -> None:
    student, teacher = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    labels = torch.full((1, 1, 8, 8), 1)
    labels[..., :1] = -1  # its blend with 1 would truncate to class 0
    minus = RMRKDLoss(4, 4, 3, ignore_index=-1)(student, teacher, labels)
    plus = RMRKDLoss(4, 4, 3)(student, teacher, labels.masked_fill(labels == -1, 255))
    assert torch.equal(minus, plus)


@each_type
def test_a_loss_that_declares_no_need_for_labels_ignores_them(loss_type: str) -> None:
    """The value on images without label maps, whose labels are 255 everywhere, must be the value on others."""
    torch.manual_seed(1)
    student, teacher = torch.randn(SIZE), torch.randn(SIZE)
    labels = torch.arange(2 * 10 * 12).view(2, 1, 10, 12) % CHANNELS
    values = []
    for given in (labels, torch.full_like(labels, 255)):
        torch.manual_seed(2)  # layers, masks and discriminators
        result = call(make(loss_type).train(), student, teacher, given)
        values.append(torch.stack(list(result.values())) if isinstance(result, dict) else result)
    assert torch.equal(*values) != make(loss_type).needs_labels
    assert needs_labels(loss_type) == make(loss_type).needs_labels  # read from the source, without torch
