from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses import RMRKDLoss
from tests.losses.common import K, error, sample, value_and_grad

Change = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def naive(student: Tensor, teacher: Tensor, labels: Tensor, tau: float, over: str) -> Tensor:
    """The formula, image by image and class by class; features are masked before the cosine."""
    total = student.new_zeros(())
    for s, t, y in zip(student, teacher, labels, strict=True):
        for k in range(K):
            inside = (y == k).to(s)
            prototypes = [(inside * f).sum((1, 2)) / (inside.sum() + 1e-6) for f in (s, t)]
            for region in (inside, 1 - inside):
                for v in prototypes:
                    guess, target = (F.cosine_similarity(v[:, None, None], region * f, dim=0) for f in (s, t))
                    if over == "positions":
                        guess, target = guess.reshape(-1, 1), target.reshape(-1, 1)
                    for column in range(guess.shape[1]):
                        p = F.softmax(target[:, column].detach() / tau, 0)
                        q = F.softmax(guess[:, column] / tau, 0)
                        total = total + tau**2 * (p * (p.log() - q.log())).sum() / 4
    return total / len(student)


@pytest.mark.parametrize(("tau", "expected"), [(1.0, 0.0300286), (0.1, 0.0107672)])
def test_hand_computed_value(tau: float, expected: float) -> None:
    student, teacher = torch.eye(2).view(1, 2, 2, 1), torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 2, 1)
    value = RMRKDLoss(2, 2, 1, tau=tau)(student, teacher, torch.zeros(1, 1, 2, 1, dtype=torch.long))
    assert value.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("over", ["rows", "positions"])
@pytest.mark.parametrize(("channels", "size", "tau"), [((4, 4), (5, 6), 0.1), ((3, 5), (4, 3), 0.7)])
def test_equals_the_loop_over_classes(over: str, channels: tuple[int, int], size: tuple[int, int], tau: float) -> None:
    student, teacher, labels = sample(1, channels, size)
    loss = RMRKDLoss(*channels, K, tau=tau, softmax_over=over)
    value, grad = value_and_grad(loss, student, teacher, labels)
    leaf = student.double().requires_grad_()
    expected = naive(loss.align.double()(leaf), teacher.double(), labels, tau, over)
    assert error(value, expected) <= 1e-5
    assert error(grad, torch.autograd.grad(expected, leaf)[0]) <= 1e-5


@pytest.mark.parametrize("over", ["rows", "positions"])
def test_zero_when_student_is_teacher(over: str) -> None:
    student, _, labels = sample()
    value, grad = value_and_grad(RMRKDLoss(4, 4, K, softmax_over=over), student, student, labels)
    assert max(value.abs(), grad.abs().max()) <= 1e-6


def test_one_row_gives_exactly_zero() -> None:
    assert not any(x.any() for x in value_and_grad(RMRKDLoss(4, 4, K), *sample(size=(1, 6))))


def test_one_column_makes_rows_and_positions_the_same() -> None:
    rows, positions = (RMRKDLoss(4, 4, K, softmax_over=over)(*sample(size=(7, 1))) for over in ("rows", "positions"))
    assert error(rows, positions) <= 1e-6


def test_absent_classes_add_nothing() -> None:
    few, many = (value_and_grad(RMRKDLoss(4, 4, k), *sample()) for k in (K, K + 5))
    assert error(many[0], few[0]) <= 1e-6
    assert error(many[1], few[1]) <= 1e-6


def test_a_class_absent_from_one_image_adds_nothing_there() -> None:
    student, teacher, labels = sample()
    labels[0], labels[1, 0, :3], labels[1, 0, 3:] = 1, 255, 2
    loss = RMRKDLoss(4, 4, K)
    value, grad = value_and_grad(loss, student, teacher, labels)
    alone = [value_and_grad(loss, *(x[i : i + 1] for x in (student, teacher, labels))) for i in (0, 1)]
    assert error(2 * value, alone[0][0] + alone[1][0]) <= 1e-6
    assert error(2 * grad, torch.cat([alone[0][1], alone[1][1]])) <= 1e-6


def test_an_image_without_any_class_gets_exactly_zero_gradient() -> None:
    student, teacher, labels = sample()
    labels[1] = 255
    _, grad = value_and_grad(RMRKDLoss(4, 4, K), student, teacher, labels)
    assert grad[0].any()
    assert not grad[1].any()


def test_all_ignored_gives_zero_and_a_zero_gradient_for_every_parameter() -> None:
    student, teacher, labels = sample(channels=(3, 5))
    loss = RMRKDLoss(3, 5, K)
    value = loss(student.requires_grad_(), teacher, 0 * labels + 255)
    value.backward()
    assert value == 0
    for tensor in (student, *loss.parameters()):
        assert not tensor.grad.any()


ROW_ORDERS = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)).argsort(0)  # one for each column
SAME: dict[str, Change] = {
    "student scaled": lambda s, t, y: (3.7 * s, t, y),
    "teacher scaled": lambda s, t, y: (s, 0.2 * t, y),
    "batch twice": lambda *inputs: [torch.cat([x, x]) for x in inputs],
    "columns permuted": lambda *inputs: [x[..., [3, 0, 5, 1, 4, 2]] for x in inputs],
    "rows permuted in each column": lambda *inputs: [x.gather(2, ROW_ORDERS.expand_as(x)) for x in inputs],
    "channels last": lambda s, t, y: [*(x.to(memory_format=torch.channels_last) for x in (s, t)), y],
    "another label outside of the classes": lambda s, t, y: (s, t, y.masked_fill(y == 255, K)),
}
OTHER: dict[str, Change] = {
    "transposed": lambda *inputs: [x.transpose(2, 3) for x in inputs],
    "teacher shifted": lambda s, t, y: (s, t + 1.0, y),
    "student changed at ignored pixels": lambda s, t, y: (torch.where(y == 255, -s, s), t, y),
}


@pytest.mark.parametrize(("over", "change"), [("rows", x) for x in SAME] + [("positions", "transposed")])
def test_value_is_unchanged_with(over: str, change: str) -> None:
    loss = RMRKDLoss(4, 4, K, softmax_over=over)
    assert error(loss(*{**SAME, **OTHER}[change](*sample())), loss(*sample())) <= 1e-5


@pytest.mark.parametrize("change", OTHER)
def test_value_differs_with(change: str) -> None:
    loss = RMRKDLoss(4, 4, K)
    assert error(loss(*OTHER[change](*sample())), loss(*sample())) > 1e-3


def test_the_ignore_index_takes_a_class_out() -> None:
    student, teacher, labels = sample()
    value = RMRKDLoss(4, 4, K, ignore_index=2)(student, teacher, labels)
    assert error(value, RMRKDLoss(4, 4, K)(student, teacher, labels.masked_fill(labels == 2, 255))) <= 1e-6


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_labels_are_resized_as_the_option_says(mode: str) -> None:
    student, teacher, _ = sample()
    labels = torch.randint(0, K, (2, 1, 40, 48), generator=torch.Generator().manual_seed(3))
    labels[0, 0, 20:, 24:] = 255
    blended = sum(labels[:, :, i::8, j::8] for i in (3, 4) for j in (3, 4)) // 4
    loss = RMRKDLoss(4, 4, K, label_resize=mode)
    small = blended if mode == "bilinear" else labels[:, :, ::8, ::8]
    assert loss(student, teacher, labels) == loss(student, teacher, small) > 0


def test_bfloat16_and_autocast_give_the_float32_value_of_the_rounded_numbers() -> None:
    student, teacher, labels = sample(channels=(3, 5))
    student, teacher = student.bfloat16(), teacher.bfloat16()
    loss = RMRKDLoss(3, 5, K)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, labels)
    assert (value.dtype, value) == (torch.float32, loss(student.float(), teacher.float(), labels))
