"""A few validation images for the trackers: image, ground truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.sample_reader import IGNORE, SampleFiles
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.terminal.sanitize import escape_control

_COUNT = 4
_MAX_WIDTH = 512  # pixels, of each of the three

Image = NDArray[np.uint8]


class ValidationImages:
    """Collects the predictions of the same images in each validation.

    Args:
        world_size: Number of workers. Rank 0, which logs them, sees every `world_size`-th sample.

    Attributes:
        sheets: Sample name → (H, 3 W, 3) of the last validation.
    """

    def __init__(self, info: DatasetInfo, samples: Sequence[Sample], world_size: int) -> None:
        own = range(0, len(samples), world_size)
        count = min(_COUNT, len(own))
        self._chosen = {own[number * len(own) // count] for number in range(count)}
        self._files = SampleFiles(info, samples)
        self._palette = np.zeros((256, 3), np.uint8)  # ignored pixels are black
        self._palette[: len(info.palette)] = info.palette
        self._palette[IGNORE] = 0
        self._references: dict[int, Image] = {}  # image and ground truth
        self.sheets: dict[str, Image] = {}

    def add_prediction(self, index: int, prediction: Tensor) -> None:
        """Draw the prediction (H, W) of a sample; samples that are not among the chosen are ignored."""
        if index not in self._chosen:
            return
        if index not in self._references:
            image, labels = self._files.pair(index)
            self._references[index] = np.hstack([_downsample(image[..., ::-1]), self._palette[_downsample(labels)]])
        drawn = self._palette[_downsample(prediction.to("cpu", torch.uint8).numpy())]
        name = escape_control(self._files.samples[index].name)
        self.sheets[name] = np.hstack([self._references[index], drawn])


def _downsample(image: Image) -> Image:
    """Return every n-th pixel, so that labels are not mixed."""
    stride = -(-image.shape[1] // _MAX_WIDTH)
    return image[::stride, ::stride]
