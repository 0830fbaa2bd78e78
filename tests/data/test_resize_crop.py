from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rmrkd_cli.data.resize_crop import ResizedCrop
from rmrkd_cli.data.sample_reader import Pair
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable

Shape = tuple[int, int]


def picture(shape: Shape, seed: int) -> Pair:
    """Smooth noise, and blocks of classes with some ignored pixels."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), (3, 3), 0.8)
    few = rng.integers(0, 4, (max(1, shape[0] // 9), max(1, shape[1] // 9)), dtype=np.uint8)
    labels = cv2.resize(few, shape[::-1], interpolation=cv2.INTER_NEAREST)
    labels[rng.random(shape) < 0.05] = 255
    return Pair(image, labels)


def by_mmseg(pair: Pair, scale: Shape, ratios: tuple[float, float], crop: Shape) -> Pair:
    make_mmseg_importable()
    from mmseg.datasets.pipelines import Compose

    steps = [
        {"type": "Resize", "img_scale": scale, "ratio_range": ratios},
        {"type": "RandomCrop", "crop_size": crop, "cat_max_ratio": 0.75},
    ]
    item = {"img": pair.image, "gt_semantic_seg": pair.labels, "seg_fields": ["gt_semantic_seg"]}
    done = Compose(steps)(item)
    return Pair(done["img"], done["gt_semantic_seg"])


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(8, 150), st.integers(8, 150)),
    scale=st.tuples(st.integers(16, 200), st.integers(16, 200)),
    low=st.floats(0.5, 1.0),
    high=st.floats(1.0, 2.0),
    crop=st.tuples(st.integers(4, 120), st.integers(4, 120)),
    seed=st.integers(0, 10**6),
)
@example(shape=(120, 160), scale=(160, 120), low=1.0, high=1.0, crop=(64, 64), seed=0)
@example(shape=(120, 160), scale=(160, 120), low=0.5, high=0.5, crop=(64, 96), seed=1)
@example(shape=(60, 80), scale=(160, 120), low=1.0, high=1.0, crop=(120, 160), seed=2)
def test_the_window_equals_that_of_mmseg_for_the_same_seed(
    shape: Shape, scale: Shape, low: float, high: float, crop: Shape, seed: int
) -> None:
    pair = picture(shape, seed)
    np.random.seed(seed)
    ours = ResizedCrop(scale=scale, ratio_range=(low, high), crop=crop)(pair)
    after = np.random.random()
    np.random.seed(seed)
    theirs = by_mmseg(pair, scale, (low, high), crop)
    assert after == np.random.random()  # as many draws: what follows is drawn alike
    assert np.array_equal(ours.labels, theirs.labels)
    assert ours.image.shape == theirs.image.shape
    difference = np.abs(ours.image.astype(int) - theirs.image)
    assert difference.max() <= 1
    if difference.size >= 10_000:  # of fewer, a large share can differ by chance
        assert difference.mean() <= 0.3


def test_an_image_that_keeps_its_size_is_only_cropped() -> None:
    pair = picture((120, 160), 0)
    crop = ResizedCrop(scale=(160, 120), ratio_range=(1.0, 1.0), crop=(50, 60))
    np.random.seed(3)
    ours = crop(pair)
    np.random.seed(3)
    assert np.array_equal(ours.image, by_mmseg(pair, (160, 120), (1.0, 1.0), (50, 60)).image)
    ours.image[:] = 0
    assert pair.image.any()  # a copy, not a window into what a cache may hold


@pytest.mark.parametrize("label", [3, 255])
def test_a_window_of_one_class_is_accepted_after_ten_tries(label: int) -> None:
    pair = Pair(np.zeros((40, 40, 3), np.uint8), np.full((40, 40), label, np.uint8))
    assert ResizedCrop(scale=(40, 40), ratio_range=(1, 1), crop=(9, 9))(pair).labels.shape == (9, 9)
