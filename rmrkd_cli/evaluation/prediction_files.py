"""Predictions as index PNGs, or as the files that a data set's test server takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.label_png import write_class_map


class PredictionFiles:
    """Index PNGs with the data set's palette, a file an image.

    Args:
        folder: Made with the first file.
        label_ids: Values are the ids that the data set's test server expects, and files have the images' own names.

    Raises:
        RmrkdError: Where ids are wanted of a data set that has none.
    """

    def __init__(self, folder: Path, info: DatasetInfo, samples: list[Sample], *, label_ids: bool = False) -> None:
        if label_ids and info.label_ids is None:
            raise RmrkdError(
                f"--label-ids: `{info.name}` has no ids besides the indices of its classes",
                "leave it out: cityscapes and ade20k have such ids",
            )
        self.folder, self.samples, self.label_ids = folder, samples, label_ids
        self.values = np.arange(info.num_classes, dtype=np.uint8)
        if label_ids and info.label_ids is not None:
            self.values = np.array(info.label_ids, np.uint8)
        colours = np.zeros((256, 3), np.uint8)
        colours[self.values] = info.palette
        self.palette = colours[: int(self.values.max()) + 1].tolist()

    def path(self, index: int) -> Path:
        """Where the prediction for an image is written: in the same folders as the images."""
        sample = self.samples[index]
        if self.label_ids:
            return self.folder / Path(sample.name).parent / f"{sample.image.stem}.png"
        return self.folder / f"{sample.name}.png"

    def write(self, index: int, guess: Tensor) -> None:
        """Writes class indices (H, W)."""
        write_class_map(self.values[guess.to("cpu", torch.uint8).numpy()], self.palette, self.path(index))

    @property
    def told(self) -> str:
        """What is written, in one line."""
        what = "ids of its test server" if self.label_ids else "class indices"
        return f"{len(self.samples)} predictions in `{self.folder}`, {what}, first `{self.path(0).name}`"
