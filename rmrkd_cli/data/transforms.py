"""Training and evaluation data sets: mmsegmentation's transforms, seeded by the position of the sample."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.image_cache import ImageCache
from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.normalization import IMAGENET
from rmrkd_cli.data.resize_crop import ResizedCrop
from rmrkd_cli.data.sample_reader import IGNORE, Pair, SampleFiles
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.stored_outputs import StoredOutputs
from rmrkd_cli.errors import CorruptFileError
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable

NORMALIZE = {"mean": IMAGENET.mean, "std": IMAGENET.std, "to_rgb": IMAGENET.rgb}

View = tuple[Tensor, dict[str, Any]]  # (1, 3, H, W) float32, normalized, and its metadata in mmseg's form

MAX_CONSECUTIVE_SKIPS = 10  # that many unreadable images in a row are an error


@dataclass(frozen=True)
class TrainItem:
    """A training sample.

    Attributes:
        image: (3, H, W) float32, normalized.
        labels: (1, H, W) uint8.
        index: Of the sample.
        skipped: An error message for each unreadable sample that this one replaces.
        teacher_logits: (K, h, w) float16, from stored outputs; None without them.
        unlabelled: For an image without a label map, the height and width that it covers of the crop from the top left;
            the rest is padding. None for an image with a label map.
    """

    image: Tensor
    labels: Tensor
    index: int
    skipped: tuple[str, ...] = ()
    teacher_logits: Tensor | None = None
    unlabelled: tuple[int, int] | None = None


@dataclass(frozen=True)
class EvalItem:
    """An evaluation sample.

    Attributes:
        views: One for each scale and flip.
        labels: (H, W) uint8 at the size of the image file; None if labels are not read.
        index: Of the sample.
    """

    views: list[View]
    labels: Tensor | None
    index: int

    def pin_memory(self) -> EvalItem:
        """Return the item with its tensors in pinned memory; the loader calls this for GPUs."""
        labels = self.labels.pin_memory() if self.labels is not None else None
        return replace(self, views=pin_views(self.views), labels=labels)


def pin_views(views: list[View]) -> list[View]:
    """Return views whose images are in pinned memory, from which copies to a GPU need not wait."""
    return [(image.pin_memory(), metadata) for image, metadata in views]


class TrainSet(Dataset[TrainItem]):
    """Randomly resized, cropped, flipped and colour-distorted samples; the random numbers depend on seed and position.

    Args:
        source: Samples by index, from files or from a cache.
        scale: (width, height) that images are fitted into, before the random ratio.
        crop: (height, width).
        ratio_range: Smallest and largest random factor on `scale`.
        skip_corrupt: Replace an unreadable sample by the next readable one.
        outputs: Stored teacher outputs, cropped, scaled and mirrored with the image; None: the items have none.
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
        outputs: StoredOutputs | None = None,
    ) -> None:
        self.source = source
        self.outputs = outputs
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
        """Return the sample `index` with the augmentation of `position`, which counts the samples of the whole run."""
        position, index = key
        pair, index, skipped = self._read_or_skip(index)
        seed_transforms(self.seed, position)
        labelled = self.source.has_labels(index)
        (image, labels), window = self.crop.cut(pair, labelled=labelled)
        item = {"img": image, "gt_semantic_seg": labels, "seg_fields": ["gt_semantic_seg"]}
        item = self.transform(item)
        target = torch.from_numpy(item["gt_semantic_seg"])
        logits = None
        if self.outputs is not None:
            logits = self.outputs.crop(index, pair.image, window, flipped=item["flip"])
        covered = None if labelled else image.shape[:2]
        return TrainItem(_to_tensor(item["img"]), target.unsqueeze(0), index, skipped, logits, covered)

    def _read_or_skip(self, index: int) -> tuple[Pair, int, tuple[str, ...]]:
        """Return the sample, or the next readable one; the choice depends on the index alone.

        Raises:
            CorruptFileError: When skipping is off, or too many samples in a row are unreadable.
        """
        skipped: list[str] = []
        while True:
            try:
                return self.source.pair(index), index, tuple(skipped)
            except CorruptFileError as error:
                if not self.skip_corrupt:
                    raise CorruptFileError(
                        error.message, f"{error.hint}, or skip unreadable images with --skip-corrupt", error.path
                    ) from error
                skipped.append(error.message)
                if len(skipped) == min(MAX_CONSECUTIVE_SKIPS, len(self.source)):
                    raise CorruptFileError(
                        f"{len(skipped)} images in a row cannot be read; the last error is: {error.message}",
                        "check the disk, and list all unreadable files with `rmrkd data check`",
                        error.path,
                    ) from error
                index = (index + 1) % len(self.source)


def seed_transforms(seed: int, position: int) -> None:
    """Seed the global random generators of Python and NumPy, which mmseg's transforms use."""
    state = np.random.SeedSequence([seed, position]).generate_state(2)
    np.random.seed(state[0])
    random.seed(int(state[1]))


class EvalViews:
    """Makes the network inputs of an image: the whole image, once for each scale and flip.

    Args:
        size: (width, height) that images are fitted into with their aspect ratio kept; its larger number limits the
            longer side, the other the shorter side. None keeps the size of the image.
        scales: Factors on the size, one view each.
        flip: Add the mirrored image for each scale.
    """

    def __init__(self, size: tuple[int, int] | None, scales: tuple[float, ...] = (1.0,), flip: bool = False) -> None:
        self.size, self.scales = size, scales
        self.kinds = [(factor, mirrored) for factor in scales for mirrored in ((False, True) if flip else (False,))]
        self.steps = _compose([{"type": "Resize", "keep_ratio": True}, {"type": "RandomFlip"}])
        self.normalize = _compose([{"type": "Normalize", **NORMALIZE}])

    def __call__(self, image: Picture) -> list[View]:
        """Return the views of an image (H, W, 3) uint8, BGR."""
        views = []
        for factor, mirrored in self.kinds:
            view = self.normalize(self._resize(image, factor, mirrored))
            keys = ("ori_shape", "img_shape", "pad_shape", "flip", "flip_direction", "scale_factor")
            views.append((_to_tensor(view["img"]).unsqueeze(0), {key: view[key] for key in keys}))
        return views

    def can_resize(self, image: Picture) -> bool:
        """Return whether every view keeps at least one pixel in each direction."""
        longer, shorter = max(image.shape[:2]), min(image.shape[:2])
        sizes = [self._size(image.shape, factor) for factor, _ in self.kinds]
        return all(shorter * min(max(size) / longer, min(size) / shorter) >= 0.5 for size in sizes)

    def resize(self, image: Picture) -> Picture:
        """Return the image at the size of the first view, (H, W, 3) uint8, BGR."""
        resized: Picture = self._resize(image, self.kinds[0][0], False)["img"]
        return resized

    def _resize(self, image: Picture, factor: float, mirrored: bool) -> dict[str, Any]:
        view = {"img": image, "ori_shape": image.shape, "pad_shape": image.shape, "seg_fields": []}
        view |= {"scale": self._size(image.shape, factor), "flip": mirrored, "flip_direction": "horizontal"}
        resized: dict[str, Any] = self.steps(view)
        return resized

    def fitted_size(self, shape: tuple[int, ...], number: int = 0) -> tuple[int, int]:
        """Return (height, width) of the view at a scale, given by its number, for images of (height, width)."""
        from mmcv.image import rescale_size

        width, height = rescale_size((shape[1], shape[0]), self._size(shape, self.scales[number]))
        return int(height), int(width)

    def _size(self, shape: tuple[int, ...], factor: float) -> tuple[int, int]:
        width, height = self.size or (shape[1], shape[0])
        return int(width * factor), int(height * factor)


class EvalSet(Dataset[EvalItem]):
    """Whole images at the data set's evaluation scale, once for each scale and flip.

    Args:
        scales: Factors on the evaluation scale.
        flip: Add the mirrored image for each scale.
        labelled: Read the label maps; otherwise they may be missing.
    """

    def __init__(
        self,
        info: DatasetInfo,
        samples: Sequence[Sample],
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
