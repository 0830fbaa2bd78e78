"""Evaluation of a student: the test loop of mmsegmentation and rmrkd, on generated images."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks.networks import CLASSES, build, preset
from benchmarks.pairs import time_pairs
from benchmarks.result import Benchmark, Disagreement, Result, Row, Setting
from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.sample_reader import IGNORE
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.transforms import NORMALIZE, EvalSet
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.evaluator import evaluate
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable
from rmrkd_cli.presets.loader import load_preset

MIN_RATIO = 1.3
_TOLERANCE = 1e-3  # share of pixels whose class may differ, by rounding


def benchmark_evaluation(setting: Setting) -> Result:
    count, size = (2, (96, 72)) if setting.quick else (20, (480, 360))
    network = build(preset(setting.quick), setting.device, "baseline").distiller.student.to(setting.device).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        info = draw_dataset(Path(folder), count, size)
        setting.log("  checking that both give the same result")
        checked = compare_predictions(network, info, setting)
        setting.log(f"  {checked}")
        for workers in (2, 0):
            setting.log(f"  {workers} loader processes")
            times = time_pairs(
                partial(evaluate_mmseg, network, info, workers, setting),
                partial(evaluate_rmrkd, network, info, workers, setting),
                setting,
            )
            theirs, ours = ([seconds / count for seconds in side] for side in times)
            rows.append(Row(f"an image, {workers} loader processes", "s", theirs, ours, goal=MIN_RATIO))
    what = (
        f"`{preset(setting.quick).name}`'s student with {CLASSES} classes and random weights on {count} drawn images "
        f"of {size[0]}x{size[1]}: reading, inference and confusion matrix; the plain side is mmsegmentation's "
        "`single_gpu_test`"
    )
    return Result("evaluation", what, checked, rows)


def evaluate_mmseg(
    network: nn.Module, info: DatasetInfo, workers: int, setting: Setting, counted: bool = True
) -> list[Any]:
    """Return mmseg's counts of each image, or its predictions (H, W) if not `counted`."""
    make_mmseg_importable()
    import mmcv
    from mmcv.parallel import MMDataParallel
    from mmseg.apis import single_gpu_test
    from mmseg.datasets import build_dataloader, build_dataset

    level = logging.root.manager.disable
    logging.disable(logging.INFO)  # mmseg logs the number of images
    try:
        dataset = build_dataset(_mmseg_config(info))
    finally:
        logging.disable(level)
    loader = build_dataloader(
        dataset, samples_per_gpu=1, workers_per_gpu=workers, dist=False, shuffle=False, persistent_workers=False,
        pin_memory=setting.device == "cuda",
    )  # fmt: skip
    model = MMDataParallel(network, device_ids=[0 if setting.device == "cuda" else -1])
    with Path(os.devnull).open("w") as nowhere, patch("mmcv.ProgressBar", partial(mmcv.ProgressBar, file=nowhere)):
        results: list[Any] = single_gpu_test(model, loader, pre_eval=counted, show=False)
    return results


def evaluate_rmrkd(
    network: nn.Module, info: DatasetInfo, workers: int, setting: Setting, predictions: list[Tensor] | None = None
) -> Tensor:
    """Return the confusion matrix (K, K), and append the predictions to `predictions`."""
    dataset = EvalSet(info, find_samples(info, "val"))
    dist_ctx = DistContext(0, 1, torch.device(setting.device))
    keep = None if predictions is None else lambda _, prediction: predictions.append(prediction.cpu())
    return evaluate(network, dataset, dist_ctx, workers=workers, on_prediction=keep).matrix


def compare_predictions(network: nn.Module, info: DatasetInfo, setting: Setting) -> str:
    """Compare the predictions of both sides, and their confusion matrices."""
    predictions: list[Tensor] = []
    matrix = evaluate_rmrkd(network, info, 0, setting, predictions).cpu()
    theirs = evaluate_mmseg(network, info, 0, setting, counted=False)
    pixels = sum(prediction.numel() for prediction in predictions)
    different = sum(
        int((prediction.numpy() != other).sum()) for prediction, other in zip(predictions, theirs, strict=True)
    )
    files = EvalSet(info, find_samples(info, "val")).files
    expected = torch.zeros(CLASSES**2, dtype=torch.int64)
    for index, other in enumerate(theirs):
        labels = files.labels(index)
        pairs = (labels.astype(np.int64) * CLASSES + other)[labels != IGNORE]
        expected += torch.from_numpy(np.bincount(pairs, minlength=CLASSES**2))
    unequal = int((matrix.flatten() - expected).abs().sum())
    if different > _TOLERANCE * pixels or unequal > 2 * different:
        raise Disagreement(f"{different} of {pixels} pixels get another class, counts differ by {unequal}")
    used = int((matrix.sum(0) > 0).sum())
    return (
        f"{different} of {pixels} pixels get another class, by rounding; the entries of the two confusion matrices "
        f"differ by {unequal} in all; {used} classes are predicted"
    )


def draw_dataset(root: Path, count: int, size: tuple[int, int]) -> DatasetInfo:
    """Write smooth random images and labels of blocks, some of them ignored, as a custom data set."""
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for number in range(count):
        coarse = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        blocks = random.integers(0, CLASSES + 1, (6, 8), dtype=np.uint8)
        blocks[blocks == CLASSES] = 255
        _write(root / "images" / f"{number:03}.png", coarse, size, Image.Resampling.BICUBIC)
        _write(root / "masks" / f"{number:03}.png", blocks, size, Image.Resampling.NEAREST)
    split = {"images": "images", "labels": "masks"}
    described = preset(quick=True).model_dump(mode="json", exclude_none=True, exclude={"name", "data", "dataset"})
    described["dataset"] = "custom"
    described["data"] = {
        "root": str(root), "classes": [f"class {k}" for k in range(CLASSES)], "train": split, "val": split,
        "image_suffix": ".png", "train_scale": list(size), "eval_scale": list(size),
    }  # fmt: skip
    file = root / "drawn.yaml"
    copied = json.loads(json.dumps(described))  # no list twice, which PyYAML would write as an alias
    file.write_text(yaml.safe_dump(copied))
    return dataset_info(load_preset(str(file)))


def _write(path: Path, pixels: NDArray[np.uint8], size: tuple[int, int], resample: Image.Resampling) -> None:
    Image.fromarray(pixels).resize(size, resample).save(path)


def _mmseg_config(info: DatasetInfo) -> dict[str, Any]:
    steps = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Normalize", **NORMALIZE},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    views = {"type": "MultiScaleFlipAug", "img_scale": info.eval_scale, "flip": False, "transforms": steps}
    return {
        "type": "CustomDataset", "data_root": str(info.root), "img_dir": "images", "ann_dir": "masks",
        "img_suffix": ".png", "seg_map_suffix": ".png", "pipeline": [{"type": "LoadImageFromFile"}, views],
        "classes": list(info.classes), "palette": [list(colour) for colour in info.palette], "test_mode": True,
    }  # fmt: skip


BENCHMARKS: dict[str, Benchmark] = {"evaluation": benchmark_evaluation}
