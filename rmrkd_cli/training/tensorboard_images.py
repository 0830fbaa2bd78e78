"""A few validation images beside their labels and what a network makes of them, for TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.sample_reader import IGNORE, SampleFiles
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.terminal.sanitize import escape_control

_COUNT = 4
_WIDTH = 512  # columns of each of the three, at most

Picture = NDArray[np.uint8]


class Pictures:
    """The same images of the first worker's share in each evaluation.

    Args:
        world_size: Workers that share the samples; the first has every so many.
    """

    def __init__(self, info: DatasetInfo, samples: list[Sample], world_size: int) -> None:
        own = range(0, len(samples), world_size)
        count = min(_COUNT, len(own))
        self._chosen = {own[number * len(own) // count] for number in range(count)}
        self._files = SampleFiles(info, samples)
        self._palette = np.zeros((256, 3), np.uint8)  # what is ignored is black
        self._palette[: len(info.palette)] = info.palette
        self._palette[IGNORE] = 0
        self._beside: dict[int, Picture] = {}
        self.made: dict[str, Picture] = {}

    def show(self, index: int, guess: Tensor) -> None:
        """Takes a prediction (H, W) of the evaluation that runs, where its image is one of the chosen.

        `made` then holds image, truth and prediction side by side, under the name of the sample.
        """
        if index not in self._chosen:
            return
        if index not in self._beside:
            image, labels = self._files.pair(index)
            self._beside[index] = np.hstack([_small(image[..., ::-1]), self._palette[_small(labels)]])
        drawn = self._palette[_small(guess.to("cpu", torch.uint8).numpy())]
        self.made[escape_control(self._files.samples[index].name)] = np.hstack([self._beside[index], drawn])


def _small(picture: Picture) -> Picture:
    """Every so many pixels: no label is mixed with its neighbours."""
    return picture[:: (every := -(-picture.shape[1] // _WIDTH)), ::every]
