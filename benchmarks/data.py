"""Training samples: the pipeline of mmsegmentation, and rmrkd with and without its image cache."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pairs import time_pairs
from benchmarks.result import Benchmark, Disagreement, Result, Row, Setting
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.image_cache import ImageCache, create_cache_file
from rmrkd_cli.data.resize_crop import ResizedCrop
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.transforms import NORMALIZE, TrainSet
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable
from rmrkd_cli.presets.loader import load_preset

MIN_RATIOS = {"off": 1.1, "ram": 6.0, "disk": 6.0}
IMAGES, SAMPLES = 4, 24  # files, and samples per timing
RATIOS = (0.5, 2.0)


def benchmark_data(setting: Setting) -> Result:
    size, crop = ((256, 128), (64, 64)) if setting.quick else ((2048, 1024), (512, 512))
    rows = []
    with tempfile.TemporaryDirectory() as folder, _one_core(), patch.dict(os.environ, RMRKD_CACHE=f"{folder}/cache"):
        files = draw_city(Path(folder) / "city", size)
        pipeline = mmseg_pipeline(files, size, crop)
        make = partial(TrainSet, scale=size, crop=crop, ratio_range=RATIOS, seed=0)
        setting.log("  checking that both give the same result")
        checked = _compare_windows(files, size, crop)
        for cache, min_ratio in MIN_RATIOS.items():
            if cache == "off":
                rows.append(_row("from files", pipeline, make(files), min_ratio, setting))
                continue
            with create_cache_file(cache, files) as store:
                cached = make(ImageCache(store.path, files))
                _check_equal(cached, make(files))
                rows.append(_row(f"--cache {cache}", pipeline, cached, min_ratio, setting))
    setting.log(f"  {checked}")
    what = (
        f"one training sample on one core, from {size[0]}x{size[1]} PNGs to a {crop[1]}x{crop[0]} crop: read, resized "
        f"by {RATIOS[0]} to {RATIOS[1]}, cropped, flipped, distorted in colour, normalised, padded; the plain side is "
        "mmsegmentation's pipeline; the caches are warm"
    )
    return Result("data", what, f"{checked}; samples from either cache equal those from files bit for bit", rows)


def draw_city(root: Path, size: tuple[int, int]) -> SampleFiles:
    """Write smooth, slightly noisy images in the layout of Cityscapes; their PNGs are about as large as real ones."""
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = random.integers(0, 256, (16, 32, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC) + random.normal(0, 1.5, (*size[::-1], 3))
        blocks = random.integers(0, 19, (16, 32), dtype=np.uint8)
        labels = cv2.resize(blocks, size, interpolation=cv2.INTER_NEAREST)
        stem = f"aachen/aachen_{number:06}_000019"
        _write(root / "leftImg8bit" / "train" / f"{stem}_leftImg8bit.png", image.clip(0, 255).astype(np.uint8))
        _write(root / "gtFine" / "train" / f"{stem}_gtFine_labelTrainIds.png", labels)
    info = dataset_info(load_preset("psp101-psp18-city", overrides=[f"data.root={root}"]))
    return SampleFiles(info, find_samples(info, "train"))


def mmseg_pipeline(files: SampleFiles, size: tuple[int, int], crop: tuple[int, int]) -> Callable[[int], Any]:
    """Return a function that makes sample i with the pipeline of mmsegmentation's Cityscapes configs."""
    compose = _compose()([
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        *_resize_and_crop(size, crop),
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "Normalize", **NORMALIZE},
        {"type": "Pad", "size": crop, "pad_val": 0, "seg_pad_val": 255},
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": ["img", "gt_semantic_seg"]},
    ])  # fmt: skip

    def sample(number: int) -> Any:
        np.random.seed(np.random.SeedSequence([0, number]).generate_state(2)[0])  # as our sample `number`
        chosen = files.samples[number % len(files)]
        return compose({
            "img_info": {"filename": str(chosen.image)}, "ann_info": {"seg_map": str(chosen.label)},
            "img_prefix": None, "seg_prefix": None, "seg_fields": [],
        })  # fmt: skip

    return sample


def _row(label: str, pipeline: Callable[[int], Any], ours: TrainSet, min_ratio: float, setting: Setting) -> Row:
    setting.log(f"  {label}")
    count = IMAGES if setting.quick else SAMPLES
    first_theirs, first_ours = (
        itertools.count(0, count),
        itertools.count(0, count),
    )  # each pair draws others, both alike

    def theirs_once() -> None:
        first = next(first_theirs)
        for number in range(first, first + count):
            pipeline(number)

    def ours_once() -> None:
        first = next(first_ours)
        for number in range(first, first + count):
            ours[number, number % IMAGES]

    theirs_once()
    ours_once()
    times = time_pairs(theirs_once, ours_once, setting)
    plain, own = ([seconds / count for seconds in side] for side in times)
    return Row(label, "s", plain, own, goal=min_ratio)


def _compare_windows(files: SampleFiles, size: tuple[int, int], crop: tuple[int, int]) -> str:
    """Check that equal seeds give equal labels, and images that differ only by rounding."""
    theirs = _compose()(_resize_and_crop(size, crop))
    ours = ResizedCrop(scale=size, ratio_range=RATIOS, crop=crop)
    max_difference, different, values = 0, 0, 0
    for seed in range(12):
        pair = files.pair(seed % len(files))
        np.random.seed(seed)
        expected = theirs({"img": pair.image, "gt_semantic_seg": pair.labels, "seg_fields": ["gt_semantic_seg"]})
        np.random.seed(seed)
        window = ours(pair)
        if not np.array_equal(window.labels, expected["gt_semantic_seg"]):
            raise Disagreement(f"the labels of seed {seed} differ")
        difference = np.abs(window.image.astype(int) - expected["img"])
        max_difference, different = max(max_difference, int(difference.max())), different + int((difference > 0).sum())
        values += difference.size
    if max_difference > 1:
        raise Disagreement(f"images differ by up to {max_difference} of 255")
    return (
        f"equal seeds give equal labels; of the image's values {different / values:.1%} differ, "
        f"by {max_difference} of 255"
    )


def _check_equal(cached: TrainSet, plain: TrainSet) -> None:
    for number in range(2 * IMAGES):
        ours, theirs = cached[number, number % IMAGES], plain[number, number % IMAGES]
        if not (torch.equal(ours.image, theirs.image) and torch.equal(ours.labels, theirs.labels)):
            raise Disagreement("a sample from the cache differs from the one from files")


def _resize_and_crop(size: tuple[int, int], crop: tuple[int, int]) -> list[dict[str, Any]]:
    return [
        {"type": "Resize", "img_scale": size, "ratio_range": RATIOS},
        {"type": "RandomCrop", "crop_size": crop, "cat_max_ratio": 0.75},
    ]


def _compose() -> Any:
    make_mmseg_importable()
    from mmseg.datasets.pipelines import Compose

    return Compose


@contextmanager
def _one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


BENCHMARKS: dict[str, Benchmark] = {"data": benchmark_data}
