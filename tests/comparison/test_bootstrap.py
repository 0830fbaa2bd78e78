from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rmrkd_cli.comparison.bootstrap import MIN_IMAGES, Counts, counts_of, iou, paired_intervals
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix

PIXELS = 480 * 360


def drawn_pair(draws: np.random.Generator, images: int, classes: int) -> list[Counts]:
    """Counts of two networks on the same images: classes of very unequal frequency and size, some images hard for both,
    the second network a little better, and every missed pixel given to another class."""
    there = draws.random((images, classes)) < np.linspace(0.98, 0.15, classes)
    there[:, 0] = True
    size = draws.gamma(2.0, 1.0, (images, classes)) * np.linspace(3, 0.3, classes) * there
    truth = np.floor(size / size.sum(1, keepdims=True) * PIXELS)
    hard = draws.normal(0, 1, (images, classes))
    confused = draws.gamma(1.0, 1.0, (images, classes, classes)) * (there[:, None, :] + 0.1)
    pair = []
    for better in (0.0, 0.3):
        skill = 0.5 + np.linspace(1.5, -1.0, classes) + better + hard + draws.normal(0, 0.5, (images, classes))
        hit = np.round(truth / (1 + np.exp(-skill)))
        given_to = confused * draws.gamma(2.0, 0.5, (images, classes, classes)) * (1 - np.eye(classes))
        wrong = ((truth - hit)[:, :, None] * given_to / given_to.sum(2, keepdims=True)).sum(1)
        pair.append(np.stack([hit, truth, np.round(hit + wrong)], axis=1).astype(np.int64))
    return pair


def true_difference(classes: int) -> NDArray[np.float64]:
    draws, sums = np.random.default_rng(11), np.zeros((2, 3, classes))
    for _ in range(60):
        sums += [counts.sum(0) for counts in drawn_pair(draws, 2000, classes)]
    difference: NDArray[np.float64] = iou(sums[1]) - iou(sums[0])
    return difference


@pytest.mark.parametrize(
    ("pairs", "least", "most", "misses"), [(200, 182, 198, 1), pytest.param(1000, 930, 970, 10, marks=pytest.mark.slow)]
)
def test_the_interval_holds_the_truth_in_95_of_100_cases(pairs: int, least: int, most: int, misses: int) -> None:
    """Simulated pairs on 100 images each; the standard error of the share is 0.7 % for 1,000 of them, 1.5 % for 200."""
    truth, draws, covered, sides = true_difference(11)[-1], np.random.default_rng(1), 0, [0, 0]
    for trial in range(pairs):
        low, high = paired_intervals(*([counts] for counts in drawn_pair(draws, 100, 11)), resamples=1000, seed=trial)[
            -1
        ]
        covered += low <= truth <= high
        sides[0] += truth < low
        sides[1] += truth > high
    assert least <= covered <= most
    assert min(sides) >= misses  # and misses on both sides


def naive(base: Counts, to: Counts, times: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Difference and standard error of one resample by their definitions: each image is written down as often as drawn,
    and its influence is what the ratios' first derivatives say."""
    picked = np.repeat(np.arange(len(base)), times)
    classes = base.shape[2]
    ratios, influences = np.full((2, classes), np.nan), np.zeros((2, len(picked), classes))
    for side, counts in enumerate((base, to)):
        for k in range(classes):
            hit = counts[picked, 0, k].astype(float)
            union = counts[picked, 1, k] + counts[picked, 2, k] - hit
            if union.sum():
                ratios[side, k] = hit.sum() / union.sum()
                influences[side, :, k] = (hit - ratios[side, k] * union) / union.sum()
    number = (~np.isnan(ratios)).sum(1)
    means = np.nansum(ratios, axis=1) / number
    together = influences.sum(2) / number[:, None]
    values = np.append(ratios[1] - ratios[0], means[1] - means[0])
    each = np.column_stack([influences[1] - influences[0], together[1] - together[0]])
    return values, np.sqrt((each**2).sum(0))


def test_it_is_the_studentised_interval_by_its_definition() -> None:
    base, to = drawn_pair(np.random.default_rng(3), 30, 5)
    draws = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=200)
    value, error = naive(base, to, np.ones(30, dtype=np.int64))
    away = np.array([(one - value) / spread for one, spread in (naive(base, to, times) for times in draws)])
    low, high = np.nanquantile(away, [0.025, 0.975], axis=0)
    expected = np.stack([value - high * error, value - low * error], axis=-1)
    got = paired_intervals([base], [to], resamples=200)
    known = ~np.isnan(got[:, 0])
    assert known.sum() >= 5
    np.testing.assert_allclose(got[known], expected[known], rtol=1e-9)


def test_exchanged_sides_mirror_the_interval_and_copies_change_nothing() -> None:
    base, to = drawn_pair(np.random.default_rng(4), 40, 4)
    forth, back = paired_intervals([base], [to], resamples=300), paired_intervals([to], [base], resamples=300)
    np.testing.assert_allclose(forth, -back[:, ::-1], atol=1e-12)
    np.testing.assert_allclose(forth, paired_intervals([base] * 3, [to] * 2, resamples=300), atol=1e-9)


def test_there_is_no_interval_where_few_images_tell_the_networks_apart() -> None:
    """Many resamples would draw none of them, and have no standard error to be measured in."""
    base = drawn_pair(np.random.default_rng(3), 80, 3)[0]
    for changed, known in ((4, False), (MIN_IMAGES, True)):
        to = base.copy()
        to[:changed, 0, 0] = (to[:changed, 0, 0] * 0.9).astype(np.int64)
        interval = paired_intervals([base], [to])
        assert np.isfinite(interval[[0, -1]]).all() == known
        assert np.isnan(interval[1:-1]).all()
        if known:
            assert (interval[0] > -1).all()
            assert (interval[0] < 0.05).all()


def test_there_is_no_interval_where_nothing_differs_or_few_images_hold_the_class() -> None:
    base, to = drawn_pair(np.random.default_rng(5), 120, 4)
    assert np.isnan(paired_intervals([base], [base.copy()])).all()
    base[MIN_IMAGES - 1 :, 1, 2] = 0
    base[MIN_IMAGES - 1 :, 0, 2] = 0
    to[:, 1, 2], to[MIN_IMAGES - 1 :, 0, 2] = base[:, 1, 2], 0
    missing = np.isnan(paired_intervals([base], [to])[:, 0])
    assert missing.tolist() == [False, False, True, False, False]
    assert np.isnan(paired_intervals([base[:5]], [to[:5]])).all()


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=20), st.integers(0, 9))
def test_ratios_are_those_of_the_confusion_matrix(pixels: list[list[int]], seed: int) -> None:
    truth = torch.tensor(pixels)
    guess = truth[:, torch.randperm(4, generator=torch.Generator().manual_seed(seed))]
    matrix = ConfusionMatrix(5)
    matrix.update(guess, truth)
    hit, rows, columns = matrix.matrix.diagonal(), matrix.matrix.sum(1), matrix.matrix.sum(0)
    got = iou(torch.stack([hit, rows, columns]).numpy())
    np.testing.assert_allclose(got, [*matrix.result().iou.tolist(), matrix.result().miou], rtol=1e-12)


def test_counts_are_read_from_a_record() -> None:
    counts = counts_of({"names": ["a", "b", "c"], "counts": [[2, 5, 6, 7], [], [0, 1, 1, 2, 1, 0, 3, 0]]}, 3)
    assert counts.shape == (3, 3, 3)
    assert counts[0, :, 2].tolist() == [5, 6, 7]
    assert counts[2, :, :2].tolist() == [[1, 0], [1, 3], [2, 0]]
    assert counts.sum() == 18 + 4 + 3


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_lower_level_gives_a_narrower_interval(level: float) -> None:
    base, to = drawn_pair(np.random.default_rng(6), 60, 4)
    wide, narrow = (paired_intervals([base], [to], level=each, resamples=500)[-1] for each in (0.95, level))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
