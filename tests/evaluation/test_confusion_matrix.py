from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix

NAN = math.nan


def counted(classes: int, guess: list[int], truth: list[int], ignore_index: int = 255) -> ConfusionMatrix:
    confusion = ConfusionMatrix(classes, ignore_index)
    confusion.update(torch.tensor(guess, dtype=torch.int64), torch.tensor(truth, dtype=torch.int64))
    return confusion


def close(values: Tensor, expected: list[float]) -> bool:
    return values.tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_hand_computed_ratios() -> None:
    # class 2 is predicted and never true; class 3 does not occur, so it is in no mean
    confusion = counted(4, guess=[0, 1, 1, 1, 2, 3], truth=[0, 0, 1, 1, 1, 255])
    result = confusion.result()
    assert confusion.matrix.tolist() == [[1, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert close(result.iou, [1 / 2, 1 / 2, 0.0, NAN])
    assert close(result.accuracy, [1 / 2, 2 / 3, NAN, NAN])
    assert close(result.dice, [2 / 3, 2 / 3, 0.0, NAN])
    assert result.miou == pytest.approx(1 / 3)
    assert result.macc == pytest.approx(7 / 12)
    assert result.aacc == pytest.approx(3 / 5)


def test_a_right_prediction_gives_one_everywhere() -> None:
    result = counted(3, [0, 1, 2, 2], [0, 1, 2, 2]).result()
    assert (result.miou, result.macc, result.aacc) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("guess", "truth"), [([], []), ([0, 1], [255, 255])])
def test_nothing_counted_gives_nan(guess: list[int], truth: list[int]) -> None:
    result = counted(2, guess, truth).result()
    assert close(result.iou, [NAN, NAN])
    assert all(math.isnan(x) for x in (result.miou, result.macc, result.aacc))


def test_updates_add_up_whatever_the_shape_and_type() -> None:
    generator = torch.Generator().manual_seed(0)
    guess, truth = (torch.randint(0, 5, (3, 4, 6), generator=generator) for _ in range(2))
    truth[0, 0] = 255
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(guess, truth)
    for g, t, dtype in zip(guess, truth, (torch.uint8, torch.int32, torch.int64), strict=True):
        parts.update(g.to(dtype), t.to(torch.uint8))
    assert torch.equal(whole.matrix, parts.matrix)
    assert whole.matrix.sum() == (truth != 255).sum()
    assert whole.matrix.dtype == torch.int64


def test_counts_above_the_integers_of_float32_stay_exact() -> None:
    confusion = counted(2, [0], [0])
    confusion.matrix = confusion.matrix * 2**40
    confusion.update(torch.tensor([0]), torch.tensor([0]))
    assert confusion.matrix[0, 0] == 2**40 + 1


def test_predictions_at_ignored_pixels_may_be_anything() -> None:
    assert counted(3, [0, 77, -4], [0, 255, 255]).matrix.sum() == 1


def test_the_ignored_label_can_be_another() -> None:
    assert counted(3, [0, 1, 2], [0, -1, -1], ignore_index=-1).matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert counted(3, [0, 1, 2], [0, 1, 1], ignore_index=1).matrix.sum() == 1


@pytest.mark.parametrize(
    ("guess", "truth", "message"),
    [
        ([0, 0], [0, 3], r"label 3 is outside 0\.\.2"),
        ([0, 0], [-1, 0], "label -1 is outside"),
        ([0, 3], [0, 0], "prediction 3 is outside"),
        ([-2, 0], [0, 0], "prediction -2 is outside"),
        ([0, 255], [0, 0], "prediction 255 is outside"),
        ([0], [0, 0], "differ in shape"),
    ],
)
def test_invalid_values_are_rejected_and_leave_the_counts(guess: list[int], truth: list[int], message: str) -> None:
    confusion = counted(3, [1], [2])
    with pytest.raises(RmrkdError, match=message):
        confusion.update(torch.tensor(guess), torch.tensor(truth))
    assert confusion.matrix.sum() == 1


def test_zero_classes_are_rejected() -> None:
    with pytest.raises(RmrkdError, match="at least 1 class, got 0"):
        ConfusionMatrix(0)


PIXELS = st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 2, 3, 4, 255]))  # prediction and label


def ratio(part: int, whole: int) -> float:
    return part / whole if whole else NAN


def mean(values: list[float]) -> float:
    known = [x for x in values if not math.isnan(x)]
    return sum(known) / len(known) if known else NAN


@settings(deadline=None, database=None)
@given(st.lists(st.lists(PIXELS, max_size=30), max_size=4))
def test_ratios_equal_a_count_in_python(images: list[list[tuple[int, int]]]) -> None:
    confusion = ConfusionMatrix(5)
    for image in images:
        guess, truth = torch.tensor(image, dtype=torch.int64).view(-1, 2).unbind(1)
        confusion.update(guess, truth)
    pairs = [pair for image in images for pair in image if pair[1] != 255]
    hit = [sum(g == t == k for g, t in pairs) for k in range(5)]
    union = [sum(k in pair for pair in pairs) for k in range(5)]
    true = [sum(t == k for _, t in pairs) for k in range(5)]
    either = [sum(pair.count(k) for pair in pairs) for k in range(5)]
    iou, accuracy = list(map(ratio, hit, union)), list(map(ratio, hit, true))

    result = confusion.result()
    assert close(result.iou, iou)
    assert close(result.accuracy, accuracy)
    assert close(result.dice, [ratio(2 * h, e) for h, e in zip(hit, either, strict=True)])
    got = [result.miou, result.macc, result.aacc]
    assert got == pytest.approx([mean(iou), mean(accuracy), ratio(sum(hit), len(pairs))], nan_ok=True)


def test_only_integers_are_class_indices() -> None:
    with pytest.raises(RmrkdError, match="must be integers"):
        ConfusionMatrix(2).update(torch.tensor([0.7]), torch.tensor([0]))
