"""Training and evaluation samples: mmsegmentation's transforms, seeded by position."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.image_cache import ImageCache
from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.resize_crop import ResizedCrop
from rmrkd_cli.data.sample_reader import IGNORE, Pair, SampleFiles
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import CorruptFileError
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable

NORMALIZE = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}

View = tuple[Tensor, dict[str, Any]]  # (1, 3, H, W) float32, normalised, and mmseg's description of it

MOST_IN_ROW = 10  # images that cannot be read, before a data set counts as broken


@dataclass(frozen=True)
class TrainItem:
    """image: (3, H, W) float32, normalised; labels: (1, H, W) uint8; index: into the samples.

    left_out: What is wrong with the files in whose place this sample stands, a message each.
    """

    image: Tensor
    labels: Tensor
    index: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvalItem:
    """views: (1, 3, H, W) float32 images with mmseg's description of each; labels: (Ho, Wo) uint8, if it has any."""

    views: list[View]
    labels: Tensor | None
    index: int


class TrainSet(Dataset[TrainItem]):
    """Randomly resized, cropped, flipped and distorted images; what is drawn depends on (seed, position) alone.

    Args:
        source: Samples by index, from files or from a cache.
        crop: (height, width).
        ratio_range: Bounds of the random factor on the data set's scale.
        skip_corrupt: The next sample that can be read takes the place of one that cannot.
    """

    def __init__(
        self,
        source: SampleFiles | ImageCache,
        *,
        scale: tuple[int, int],
        crop: tuple[int, int],
        ratio_range: tuple[float, float],
        seed: int,
        skip_corrupt: bool = False,
    ) -> None:
        self.source = source
        self.seed = seed
        self.skip_corrupt = skip_corrupt
        self.crop = ResizedCrop(scale=scale, ratio_range=ratio_range, crop=crop)
        self.transform = _compose(
            [
                {"type": "RandomFlip", "prob": 0.5},
                {"type": "PhotoMetricDistortion"},
                {"type": "Normalize", **NORMALIZE},
                {"type": "Pad", "size": tuple(crop), "pad_val": 0, "seg_pad_val": IGNORE},
            ]
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> TrainItem:
        """The sample `index` as drawn for `position`, its place in the whole run's order."""
        position, index = key
        pair, index, left_out = self._readable(index)
        seed_draws(self.seed, position)
        image, labels = self.crop(pair)
        item = {"img": image, "gt_semantic_seg": labels, "seg_fields": ["gt_semantic_seg"]}
        item = self.transform(item)
        target = torch.from_numpy(item["gt_semantic_seg"])
        return TrainItem(_to_tensor(item["img"]), target.unsqueeze(0), index, left_out)

    def _readable(self, index: int) -> tuple[Pair, int, tuple[str, ...]]:
        """The sample, or the next one that can be read: a function of the index, so that any run sees the same.

        Raises:
            CorruptFileError: When nothing may be left out, or many samples in a row cannot be read.
        """
        left_out: list[str] = []
        while True:
            try:
                return self.source.pair(index), index, tuple(left_out)
            except CorruptFileError as error:
                if not self.skip_corrupt:
                    raise CorruptFileError(
                        error.message, f"{error.hint}, or go on without it: --skip-corrupt", error.path
                    ) from error
                left_out.append(error.message)
                if len(left_out) == min(MOST_IN_ROW, len(self.source)):
                    raise CorruptFileError(
                        f"{len(left_out)} images in a row cannot be read, the last: {error.message}",
                        "is the disk failing? rmrkd data check names all of them",
                        error.path,
                    ) from error
                index = (index + 1) % len(self.source)


def seed_draws(seed: int, position: int) -> None:
    """What is drawn next depends on these two alone; mmseg's transforms draw from the global generators."""
    state = np.random.SeedSequence([seed, position]).generate_state(2)
    np.random.seed(state[0])
    random.seed(int(state[1]))


class EvalViews:
    """What a network is shown of an image: it whole, fitted into a size, once for each scale and flip.

    Args:
        size: (width, height); the longer side becomes at most the larger, the shorter at most the smaller of the two,
            with the ratio kept. None: images stay as large as they are.
        scales: Factors on it, a view each.
        flip: Also the mirrored image.
    """

    def __init__(self, size: tuple[int, int] | None, scales: tuple[float, ...] = (1.0,), flip: bool = False) -> None:
        self.size, self.scales = size, scales
        self.kinds = [(factor, mirrored) for factor in scales for mirrored in ((False, True) if flip else (False,))]
        self.steps = _compose([{"type": "Resize", "keep_ratio": True}, {"type": "RandomFlip"}])
        self.normalize = _compose([{"type": "Normalize", **NORMALIZE}])

    def __call__(self, image: Picture) -> list[View]:
        """The views of an image (H, W, 3) of bytes, blue first."""
        views = []
        for factor, mirrored in self.kinds:
            view = self.normalize(self._resized(image, factor, mirrored))
            keys = ("ori_shape", "img_shape", "pad_shape", "flip", "flip_direction", "scale_factor")
            views.append((_to_tensor(view["img"]).unsqueeze(0), {key: view[key] for key in keys}))
        return views

    def can_show(self, image: Picture) -> bool:
        """Whether no view of it loses a side to rounding."""
        longer, shorter = max(image.shape[:2]), min(image.shape[:2])
        sizes = [self._size(image, factor) for factor, _ in self.kinds]
        return all(shorter * min(max(size) / longer, min(size) / shorter) >= 0.5 for size in sizes)

    def resized(self, image: Picture) -> Picture:
        """The image as large as the first view, still of 8 bits and blue first."""
        whole: Picture = self._resized(image, self.kinds[0][0], False)["img"]
        return whole

    def _resized(self, image: Picture, factor: float, mirrored: bool) -> dict[str, Any]:
        view = {"img": image, "ori_shape": image.shape, "pad_shape": image.shape, "seg_fields": []}
        view |= {"scale": self._size(image, factor), "flip": mirrored, "flip_direction": "horizontal"}
        made: dict[str, Any] = self.steps(view)
        return made

    def _size(self, image: Picture, factor: float) -> tuple[int, int]:
        width, height = self.size or (image.shape[1], image.shape[0])
        return int(width * factor), int(height * factor)


class EvalSet(Dataset[EvalItem]):
    """Whole images at the data set's evaluation scale, once for each scale and flip.

    Args:
        scales: Factors on the data set's scale.
        flip: Also the mirrored image.
        labelled: The label maps are read; none of them need be there otherwise.
    """

    def __init__(
        self,
        info: DatasetInfo,
        samples: list[Sample],
        *,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
        labelled: bool = True,
    ) -> None:
        self.labelled = labelled
        self.files = SampleFiles(info, samples)
        self.views = EvalViews(info.eval_scale, scales, flip)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> EvalItem:
        labels = torch.from_numpy(self.files.labels(index)) if self.labelled else None
        return EvalItem(self.views(self.files.image(index)), labels, index)


def _compose(steps: list[dict[str, Any]]) -> Any:
    make_mmseg_importable()
    from mmseg.datasets.pipelines import Compose

    return Compose(steps)


def _to_tensor(image: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
