"""Evaluate a student with mmsegmentation alone: data set, pipeline, segmentor and `pre_eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable

Pair = tuple[int, int]


class MmsegSide:
    """Built from the config in a student file, without code of rmrkd."""

    def __init__(self, student: Path) -> None:
        make_mmseg_importable()
        from mmcv import Config
        from mmcv.cnn.utils import revert_sync_batchnorm
        from mmseg.models import build_segmentor

        checkpoint = read_checkpoint(student)
        self.config = Config.fromstring(checkpoint.meta["config"], ".py")
        self.network = revert_sync_batchnorm(build_segmentor(self.config.model)).eval()
        self.network.load_state_dict(checkpoint.state)

    @torch.no_grad()
    def measure(
        self, *, scales: tuple[float, ...] = (1.0,), flip: bool = False, window: tuple[Pair, Pair] | None = None
    ) -> tuple[dict[str, float], list[NDArray[np.int64]]]:
        """Return the rounded metrics of `dataset.evaluate` and the label map of each image."""
        from mmcv import ConfigDict
        from mmseg.datasets import build_dataset

        described = self.config.data.test.copy()
        views = described["pipeline"][1]
        described["pipeline"] = [described["pipeline"][0], {**views, "flip": flip, "img_ratios": list(scales)}]
        dataset = build_dataset(described, {"test_mode": True})
        mode = {"mode": "slide", "crop_size": window[0], "stride": window[1]} if window else {"mode": "whole"}
        self.network.test_cfg = ConfigDict(mode)
        maps: list[NDArray[np.int64]] = []
        counted: list[Any] = []
        for index in range(len(dataset)):
            item = dataset[index]
            images, metas = [image[None] for image in item["img"]], [[meta.data] for meta in item["img_metas"]]
            guess = self.network(return_loss=False, img=images, img_metas=metas)
            maps += guess
            counted += dataset.pre_eval(guess, [index])
        return dataset.evaluate(counted, metric="mIoU", logger="silent"), maps
