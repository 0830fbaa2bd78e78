"""The options of `rmrkd eval` and `rmrkd compare`: what is measured, and how images are given to the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.network_file_options import (
    ClassesOption,
    ColorOption,
    FileOutputOption,
    InputSizeOption,
    MeanOption,
    StdOption,
    describe_file_input,
)
from rmrkd_cli.cli.options import (
    DATA,
    INFERENCE,
    AllowPartial,
    BatchSize,
    Code,
    DataRoot,
    DatasetOption,
    Device,
    DeviceOption,
    Flip,
    Gpus,
    LoaderWorkers,
    NetworkPreset,
    Scales,
    dataset_name,
)
from rmrkd_cli.cli.usage_errors import shorten_value
from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.presets.schema import Preset

_MAX_SCALES = 32
_MIN_SCALE, _MAX_SCALE = 0.05, 8
_MAX_SIDE = 16_384  # pixels
_SIZE = re.compile(r"([0-9]{1,5})(?:[xX]([0-9]{1,5}))?")

Size = tuple[int, int]


class Split(str, Enum):
    val = "val"
    test = "test"
    train = "train"


class Mode(str, Enum):
    whole = "whole"
    slide = "slide"


ModeOption = Annotated[Mode, option("--mode", INFERENCE, "Predict whole images, or slide a window over them.")]
CropOption = Annotated[
    str | None,
    option(
        "--crop",
        INFERENCE,
        "Use a window of this height and width with --mode slide.",
        default="the checkpoint's",
        metavar="HxW",
    ),
]
StrideOption = Annotated[
    str | None,
    option(
        "--stride",
        INFERENCE,
        "Move the window by this height and width with --mode slide.",
        default="the checkpoint's, else two thirds of the window",
        metavar="HxW",
    ),
]


@dataclass(kw_only=True)
class EvaluationOptions:
    """What is measured, and how."""

    dataset: DatasetOption = None
    data_root: DataRoot = None
    split: Annotated[Split, option("--split", DATA, "Measure on this split.")] = Split.val
    max_images: Annotated[
        int | None,
        option("--max-images", DATA, "Measure on the first N images.", default="all", min=1),
    ] = None
    preset: NetworkPreset = None
    code: Code = None
    allow_partial: AllowPartial = False
    mode: ModeOption = Mode.whole
    crop: CropOption = None
    stride: StrideOption = None
    flip: Flip = False
    scales: Scales = "1.0"
    device: DeviceOption = Device.auto
    gpus: Gpus = None
    batch_size: BatchSize = None
    workers: LoaderWorkers = None
    mean: MeanOption = None
    std: StdOption = None
    color: ColorOption = None
    input_size: InputSizeOption = None
    output: FileOutputOption = None
    classes: ClassesOption = None

    def protocol(self) -> dict[str, Any]:
        """Return split, scales, flip, mode, crop and stride as arguments of `evaluate_files`.

        Raises:
            RmrkdError: For values that are invalid or exclude each other.
        """
        crop, stride = parse_window(self.mode, self.crop, self.stride)
        return {
            "split": self.split.value, "scales": parse_scales(self.scales), "flip": self.flip, "mode": self.mode.value,
            "crop": crop, "stride": stride,
        }  # fmt: skip

    def file_input(self) -> dict[str, Any] | None:
        """Return how ONNX and TorchScript files take images, as an argument of `evaluate_files`."""
        return describe_file_input(self.mean, self.std, self.color, self.input_size, self.output, self.classes)

    @property
    def has_defaults(self) -> bool:
        """Return whether no option changes what is measured."""
        return self.protocol() == EvaluationOptions().protocol() and self.max_images is None

    def load_preset(self) -> Preset | None:
        """Return the preset of `--preset`."""
        from rmrkd_cli.presets.loader import load_preset

        return load_preset(self.preset) if self.preset is not None else None

    def choose_devices(self) -> tuple[str, Cluster]:
        """Return the device kind, and the workers: another launcher's, else those of the options."""
        return choose_devices(self.device, self.gpus, self.workers)

    def arguments(self, preset: Preset | None, device: str) -> dict[str, Any]:
        """Return the arguments of `evaluate_files` that the options set."""
        return {
            "preset": preset.model_dump(mode="json") if preset is not None else None,
            "dataset": dataset_name(self.dataset), "data_root": self.data_root, **self.protocol(),
            "batch_size": self.batch_size, "workers": self.workers, "device": device, "max_images": self.max_images,
            "allow_partial": self.allow_partial, "file_input": self.file_input(),
        }  # fmt: skip


def choose_devices(device: Device, gpus: int | None, loader_processes: int | None) -> tuple[str, Cluster]:
    """Return the device kind, and the workers: another launcher's, else those of the options."""
    from rmrkd_cli.data import loader_server

    if gpus in (None, 1):  # before this process imports torch, which takes as long
        loader_server.start_loader_server(loader_processes)
    from rmrkd_cli.distributed.cluster import Cluster, external_cluster
    from rmrkd_cli.distributed.coordination import current_coordinator
    from rmrkd_cli.distributed.device import choose_device, choose_external_device

    if (coordinator := current_coordinator()) is not None:
        cluster = external_cluster(coordinator, gpus=gpus)
        return choose_external_device(device.value, coordinator.local_size), cluster
    kind, workers = choose_device(device.value, gpus)
    return kind, Cluster(workers=workers)


def parse_scales(text: str) -> tuple[float, ...]:
    """Return the numbers of `0.5,1.0,1.5`.

    Raises:
        RmrkdError: If they are not 1 to 32 numbers from 0.05 to 8.
    """
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not 1 <= len(scales) <= _MAX_SCALES or not all(_MIN_SCALE <= scale <= _MAX_SCALE for scale in scales):
        raise RmrkdError(
            f"--scales `{shorten_value(text)}` must be 1 to {_MAX_SCALES} numbers from {_MIN_SCALE} to {_MAX_SCALE}, "
            "separated by commas",
            "--scales 0.5,1.0,1.5",
        )
    return scales


def parse_window(mode: Mode, crop: str | None, stride: str | None) -> tuple[Size | None, Size | None]:
    """Return (height, width) of the window and of its steps; None if an option is not given.

    Raises:
        RmrkdError: For an invalid size, steps longer than the window, or a size without `--mode slide`.
    """
    for name, text in (("--crop", crop), ("--stride", stride)):
        if text is not None and mode is not Mode.slide:
            raise RmrkdError(f"{name} needs a sliding window, but --mode is {mode.value}", "--mode slide")
    window, steps = _parse_size("--crop", crop), _parse_size("--stride", stride)
    if window and steps and (steps[0] > window[0] or steps[1] > window[1]):
        raise RmrkdError(
            f"--stride {stride} is more than --crop {crop}, so pixels between two windows would be skipped",
            "a --stride of about two thirds of --crop",
        )
    return window, steps


def _parse_size(name: str, text: str | None) -> Size | None:
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    sides = [int(side) for side in match.groups() if side is not None] if match else []
    if not sides or not all(1 <= side <= _MAX_SIDE for side in sides):
        raise RmrkdError(
            f"{name} `{shorten_value(text)}` must be HEIGHTxWIDTH, or one number for both, each from 1 to {_MAX_SIDE}",
            f"{name} 512x1024",
        )
    return sides[0], sides[-1]
