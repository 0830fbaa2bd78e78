"""What quantization costs: the pixels that get another class, and the mIoU where there are label maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.transforms import EvalViews
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.exporters.calibration import positions_without, prepare
from rmrkd_cli.exporters.graph import predict_classes
from rmrkd_cli.exporters.onnx import Runner
from rmrkd_cli.exporters.verify import normalize
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.presets.loader import dataset_preset

MAX_CHANGED = 0.05  # of the pixels, where no label map shows what the change costs
MAX_MEASURED = 128  # labelled images

Item = tuple[NDArray[np.uint8], Tensor | None]  # (1, 3, H, W) RGB, and its labels (h, w)


class LabelledImages(NamedTuple):
    """Images with label maps, none of which is calibrated with."""

    files: SampleFiles
    positions: list[int]

    @property
    def name(self) -> str:
        return f"{self.files.info.name} val"

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]
        views = EvalViews(self.files.info.eval_scale)
        for number in self.positions:
            image = prepare(self.files.image(number), views, self.files.samples[number].image)
            yield image, torch.from_numpy(self.files.labels(number))


@dataclass(frozen=True)
class QuantizationLoss:
    """The difference between the float file and the INT8 file.

    Attributes:
        images: How many were measured, and where they come from.
        changed: Share of pixels (0 to 1) that get another class.
        miou: Of float and INT8 (0 to 1); None without label maps.
    """

    images: int
    source: str
    changed: float
    miou: tuple[float, float] | None

    @property
    def points(self) -> float | None:
        """mIoU lost, in points: negative if INT8 is higher; None without label maps."""
        return 100 * (self.miou[0] - self.miou[1]) if self.miou is not None else None

    def to_json(self) -> dict[str, Any]:
        miou = {"miou": dict(zip(("float", "int8"), self.miou, strict=True))} if self.miou is not None else {}
        return {"images": self.images, "source": self.source, "changed": self.changed, **miou}


def find_labelled(
    model: CheckpointNetwork, dataset: str | None, data_root: str | None, used: Sequence[Path]
) -> LabelledImages | None:
    """Return up to 128 validation images that are not calibrated with; None where none with label maps is found.

    Args:
        dataset: Built-in data set; None: that of the checkpoint's preset.
        data_root: Its folder. If it is given, the images must be there.
        used: The images to calibrate with.

    Raises:
        RmrkdError: `data_root` is given, and has no such images.
    """
    try:
        info = _dataset(model, dataset, data_root)
        if info.num_classes != (count := adapter_of(model.network).num_classes):
            raise RmrkdError(f"the network predicts {count} classes, `{info.name}` has {info.num_classes}")
        samples = find_samples(info, "val")
        own = positions_without([sample.image for sample in samples], used)
        labelled = [number for number in own if samples[number].label is not None]
        if not labelled:
            raise RmrkdError(
                f"all validation images of `{info.name}` with label maps are calibrated with",
                "--calibration DIR with other images, such as those of the training split",
            )
    except RmrkdError:
        if data_root is not None:
            raise
        return None
    total = min(len(labelled), MAX_MEASURED)
    return LabelledImages(
        SampleFiles(info, samples), [labelled[number * len(labelled) // total] for number in range(total)]
    )


def measure_loss(
    runners: tuple[Runner, Runner], images: Iterator[Item], network: nn.Module, source: str, *, raw: bool
) -> QuantizationLoss:
    """Compare the classes of a float file and of its INT8 file, and their mIoU where images have labels.

    Args:
        runners: Of float and INT8.
        network: The exported network.
        raw: The files take uint8 images, else normalized ones.
    """
    adapter = adapter_of(network)
    matrices = [ConfusionMatrix(adapter.num_classes) for _ in runners]
    changed = pixels = count = 0
    for image, labels in images:
        count += 1
        given = image if raw else normalize(image)
        size = tuple(labels.shape) if labels is not None else None
        first, second = (_classes(run(given), adapter, size) for run in runners)
        changed, pixels = changed + int((first != second).sum()), pixels + first.numel()
        if labels is not None:
            for matrix, classes in zip(matrices, (first, second), strict=True):
                matrix.update(classes[0], labels)
    mious = [matrix.result().miou for matrix in matrices] if matrices[0].matrix.any() else None
    return QuantizationLoss(count, source, changed / max(1, pixels), (mious[0], mious[1]) if mious else None)


def check_loss(loss: QuantizationLoss, max_loss: float, tolerance: float | None) -> None:
    """Raise RunError if an INT8 file loses too much.

    Args:
        max_loss: Points of mIoU.
        tolerance: Share of pixels with another class; None: 5 %, only where no mIoU is known.
    """
    hint = (
        "calibrate with other or more images like those that the network will see (--calibration, "
        "--calibration-images); --weight-bits 7 for an x86 CPU without VNNI; or "
    )
    where = f"on {loss.images} images of {loss.source}"
    if loss.points is not None and loss.miou is not None and not loss.points <= max_loss:
        float_miou, int8_miou = (100 * value for value in loss.miou)
        raise RunError(
            f"INT8 loses {loss.points:.2f} points of mIoU, the limit is {max_loss:g}: {int8_miou:.2f} % after "
            f"{float_miou:.2f} % in float, {where}; the file was not kept",
            f"{hint}raise the limit with --max-loss POINTS",
        )
    limit = tolerance if tolerance is not None else MAX_CHANGED
    if (tolerance is not None or loss.points is None) and not loss.changed <= limit:
        raise RunError(
            f"INT8 assigns another class than float to {100 * loss.changed:.2f} % of the pixels, the limit is "
            f"{100 * limit:g} %, {where}; the file was not kept",
            f"{hint}raise the limit with --tolerance SHARE; --data-root DIR measures the mIoU instead",
        )


def _dataset(model: CheckpointNetwork, dataset: str | None, data_root: str | None) -> DatasetInfo:
    preset = model.preset
    if preset is None or (dataset is not None and dataset != preset.dataset):
        if dataset in (None, "custom"):
            raise RmrkdError(f"`{model.checkpoint.path}` does not name its data set", "--dataset NAME or --preset FILE")
        preset = dataset_preset(str(dataset))
    if data_root is not None:
        preset = preset.model_copy(update={"data": preset.data.model_copy(update={"root": data_root})})
    return dataset_info(preset)


def _classes(output: NDArray[Any], adapter: Any, size: tuple[int, ...] | None) -> Tensor:
    """Return the classes (1, h, w) of a file's output, as the evaluation decides for them at the size of the labels."""
    result = torch.from_numpy(output)
    if result.ndim == 4:
        if size is not None and tuple(result.shape[2:]) != size:
            result = functional.interpolate(result, size, mode="bilinear", align_corners=adapter.align_corners)
        return predict_classes(result, adapter.threshold)
    if size is not None and tuple(result.shape[1:]) != size:
        result = functional.interpolate(result[:, None].float(), size, mode="nearest-exact")[:, 0]
    return result.long()
