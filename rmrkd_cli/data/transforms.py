"""mmsegmentation's transforms, fed from files and seeded by position."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rmrkd_cli.data.catalog import DatasetInfo
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.mmcv_ops import make_mmseg_importable

IGNORE = 255
NORMALIZE = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}


@dataclass(frozen=True)
class TrainItem:
    """image: (3, H, W) float32, normalised; labels: (1, H, W) int64; index: into the samples."""

    image: Tensor
    labels: Tensor
    index: int


@dataclass(frozen=True)
class EvalItem:
    """views: (1, 3, H, W) float32 images with mmseg's description of each; labels: (Ho, Wo) int64."""

    views: list[tuple[Tensor, dict[str, Any]]]
    labels: Tensor
    index: int


class _Files:
    """Reads the files of samples and turns label values into classes."""

    def __init__(self, info: DatasetInfo, samples: list[Sample]) -> None:
        self.info = info
        self.samples = samples
        self.classes_of = _label_table(info)

    def image(self, index: int) -> dict[str, Any]:
        import cv2

        sample = self.samples[index]
        cv2.setNumThreads(0)  # the loader's processes are the parallelism
        image = cv2.imread(str(sample.image), cv2.IMREAD_COLOR)
        if image is None:
            raise RunError(f"`{sample.image}` cannot be read as an image")
        return {
            "filename": str(sample.image),
            "ori_filename": sample.name,
            "img": image,
            "img_shape": image.shape,
            "ori_shape": image.shape,
            "pad_shape": image.shape,
            "scale_factor": 1.0,
            "seg_fields": [],
        }

    def labels(self, index: int) -> NDArray[np.uint8]:
        from PIL import Image, UnidentifiedImageError

        path = self.samples[index].label
        try:
            with Image.open(path) as picture:
                raw = np.asarray(picture)
        except (OSError, UnidentifiedImageError) as error:
            raise RunError(f"`{path}` cannot be read as a label map: {error}") from error
        if raw.ndim != 2 or raw.dtype != np.uint8:
            raise RunError(f"`{path}` must hold one 8-bit value a pixel, found {raw.dtype} of shape {raw.shape}")
        classes: NDArray[np.int16] = self.classes_of[raw]
        if (classes < 0).any():
            value = int(raw[classes < 0][0])
            raise RunError(
                f"`{path}` holds the label {value}; `{self.info.name}` has the classes 0..{self.info.num_classes - 1}"
                f" and ignores {', '.join(map(str, self.info.ignore_labels))}",
                "for a data set of your own, name further values under `data.ignore_labels` of the preset",
            )
        return classes.astype(np.uint8)


class TrainSet(Dataset[TrainItem]):
    """Randomly resized, cropped, flipped and distorted images; what is drawn depends on (seed, position) alone.

    Args:
        crop: (height, width).
        ratio_range: Bounds of the random factor on the data set's scale.
    """

    def __init__(
        self,
        info: DatasetInfo,
        samples: list[Sample],
        *,
        crop: tuple[int, int],
        ratio_range: tuple[float, float],
        seed: int,
    ) -> None:
        self.files = _Files(info, samples)
        self.seed = seed
        self.transform = _compose(
            [
                {"type": "Resize", "img_scale": info.scale, "ratio_range": tuple(ratio_range)},
                {"type": "RandomCrop", "crop_size": tuple(crop), "cat_max_ratio": 0.75},
                {"type": "RandomFlip", "prob": 0.5},
                {"type": "PhotoMetricDistortion"},
                {"type": "Normalize", **NORMALIZE},
                {"type": "Pad", "size": tuple(crop), "pad_val": 0, "seg_pad_val": IGNORE},
            ]
        )

    def __len__(self) -> int:
        return len(self.files.samples)

    def __getitem__(self, key: tuple[int, int]) -> TrainItem:
        """The sample `index` as drawn for `position`, its place in the whole run's order."""
        position, index = key
        state = np.random.SeedSequence([self.seed, position]).generate_state(2)
        np.random.seed(state[0])  # mmseg's transforms draw from the global generators
        random.seed(int(state[1]))
        item = self.files.image(index)
        item["gt_semantic_seg"] = self.files.labels(index)
        if item["gt_semantic_seg"].shape != item["img"].shape[:2]:
            sample = self.files.samples[index]
            raise RunError(
                f"`{sample.image}` is {item['img'].shape[:2]} (height, width), its label map `{sample.label}` is "
                f"{item['gt_semantic_seg'].shape}"
            )
        item["seg_fields"].append("gt_semantic_seg")
        item = self.transform(item)
        labels = torch.from_numpy(item["gt_semantic_seg"].astype(np.int64))
        return TrainItem(_to_tensor(item["img"]), labels.unsqueeze(0), index)


class EvalSet(Dataset[EvalItem]):
    """Whole images at the data set's evaluation scale, once for each scale and flip.

    Args:
        scales: Factors on the data set's scale.
        flip: Also the mirrored image.
    """

    def __init__(
        self,
        info: DatasetInfo,
        samples: list[Sample],
        *,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
    ) -> None:
        self.files = _Files(info, samples)
        width, height = info.eval_scale
        self.views = [
            ((int(width * scale), int(height * scale)), mirrored)
            for scale in scales
            for mirrored in ((False, True) if flip else (False,))
        ]
        self.steps = _compose([{"type": "Resize", "keep_ratio": True}, {"type": "RandomFlip"}])
        self.normalize = _compose([{"type": "Normalize", **NORMALIZE}])

    def __len__(self) -> int:
        return len(self.files.samples)

    def __getitem__(self, index: int) -> EvalItem:
        source = self.files.image(index)
        views = []
        for scale, mirrored in self.views:
            view = dict(source, scale=scale, flip=mirrored, flip_direction="horizontal")
            view = self.normalize(self.steps(view))
            keys = ("ori_shape", "img_shape", "pad_shape", "flip", "flip_direction", "scale_factor")
            views.append((_to_tensor(view["img"]).unsqueeze(0), {key: view[key] for key in keys}))
        return EvalItem(views, torch.from_numpy(self.files.labels(index).astype(np.int64)), index)


def _compose(steps: list[dict[str, Any]]) -> Any:
    make_mmseg_importable()
    from mmseg.datasets.pipelines import Compose

    return Compose(steps)


def _to_tensor(image: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _label_table(info: DatasetInfo) -> NDArray[np.int16]:
    """For each of the 256 values a label file can hold: the class, 255 where ignored, -1 where not allowed."""
    if info.num_classes > IGNORE:
        raise RmrkdError(f"label maps of 8 bits hold at most 255 classes, `{info.name}` has {info.num_classes}")
    table = np.full(256, -1, np.int16)
    first = 1 if info.reduce_zero_label else 0
    table[first : first + info.num_classes] = np.arange(info.num_classes)
    table[[*info.ignore_labels, *([0] if info.reduce_zero_label else [])]] = IGNORE
    return table
