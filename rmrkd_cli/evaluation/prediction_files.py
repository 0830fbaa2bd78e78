"""Predictions as label PNGs, with class indices or with the label ids of a data set's test server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.label_png import write_label_png


class PredictionFiles:
    """Write one label PNG per image, with the palette of the data set.

    Args:
        folder: Created with the first file.
        label_ids: Write the label ids of the test server instead of class indices, and use its file names.

    Raises:
        RmrkdError: `label_ids` is set for a data set without label ids.
    """

    def __init__(self, folder: Path, info: DatasetInfo, samples: Sequence[Sample], *, label_ids: bool = False) -> None:
        if label_ids and info.label_ids is None:
            raise RmrkdError(
                f"--label-ids: `{info.name}` has no label ids",
                "leave out --label-ids; cityscapes and ade20k have label ids",
            )
        self.folder, self.samples, self.label_ids = folder, samples, label_ids
        self.values = np.arange(info.num_classes, dtype=np.uint8)
        if label_ids and info.label_ids is not None:
            self.values = np.array(info.label_ids, np.uint8)
        colours = np.zeros((256, 3), np.uint8)
        colours[self.values] = info.palette
        self.palette = colours[: int(self.values.max()) + 1].tolist()

    def path(self, index: int) -> Path:
        """Return the file of image `index`, in the same subfolders as the images."""
        sample = self.samples[index]
        if self.label_ids:
            return self.folder / Path(sample.name).parent / f"{sample.image.stem}.png"
        return self.folder / f"{sample.name}.png"

    def write(self, index: int, prediction: Tensor) -> None:
        """Write the class indices (H, W) of image `index`."""
        write_label_png(self.values[prediction.to("cpu", torch.uint8).numpy()], self.palette, self.path(index))

    @property
    def summary(self) -> str:
        """One line: how many files, where, and which values they have."""
        values = "label ids of the test server" if self.label_ids else "class indices"
        return f"{len(self.samples)} predictions in `{self.folder}`, {values}, first `{self.path(0).name}`"
