"""The options of `rmrkd eval` and `rmrkd compare`: what is measured, and how images are given to the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from rmrkd_cli.api.checks import BOUNDARY_WIDTH, MAX_BOUNDARY_WIDTH, MAX_SCALE, MAX_SCALES, MIN_SCALE, check_window
from rmrkd_cli.api.evaluation_settings import EvaluationSettings
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
    METRICS,
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
)
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.text import shorten_value

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
    boundary_iou: Annotated[
        bool, option("--boundary-iou", METRICS, "Measure the boundary IoU too: IoU of the pixels near the edges.")
    ] = False
    boundary_width: Annotated[
        float | None,
        option(
            "--boundary-width",
            METRICS,
            f"Take pixels within this share of the image's diagonal from an edge, at most {MAX_BOUNDARY_WIDTH}.",
            default=str(BOUNDARY_WIDTH),
            metavar="N",
        ),
    ] = None
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

    def as_settings(self) -> EvaluationSettings:
        """Return the options as `rmrkd_cli.evaluate` and `rmrkd_cli.compare` take them.

        Raises:
            RmrkdError: For values that are invalid or exclude each other.
        """
        crop, stride = parse_window(self.mode, self.crop, self.stride)
        return EvaluationSettings(
            dataset=self.dataset, data_root=self.data_root, split=self.split.value, max_images=self.max_images,
            preset=self.preset, code=self.code or (), allow_partial=self.allow_partial, mode=self.mode.value,
            crop=crop, stride=stride, flip=self.flip, scales=parse_scales(self.scales), device=self.device.value,
            gpus=self.gpus, batch_size=self.batch_size, workers=self.workers, file_input=describe_file_input(
                self.mean, self.std, self.color, self.input_size, self.output, self.classes
            ),
            boundary_iou=self.boundary_iou, boundary_width=self.boundary_width,
        )  # fmt: skip


def parse_scales(text: str) -> tuple[float, ...]:
    """Return the numbers of `0.5,1.0,1.5`.

    Raises:
        RmrkdError: If they are not 1 to 32 numbers from 0.05 to 8.
    """
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not 1 <= len(scales) <= MAX_SCALES or not all(MIN_SCALE <= scale <= MAX_SCALE for scale in scales):
        raise RmrkdError(
            f"--scales `{shorten_value(text)}` must be 1 to {MAX_SCALES} numbers from {MIN_SCALE} to {MAX_SCALE}, "
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
    check_window(mode.value, window, steps)
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
