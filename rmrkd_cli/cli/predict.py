"""`rmrkd predict`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.api.predict import predict_with
from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_dataset
from rmrkd_cli.cli.evaluation_options import CropOption, Mode, ModeOption, StrideOption, parse_scales, parse_window
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
    DEVICES,
    INFERENCE,
    NETWORK,
    OUTPUT,
    Code,
    Device,
    DeviceOption,
    Flip,
    NetworkPreset,
    Scales,
    parse_image_size,
)
from rmrkd_cli.errors import RunError
from rmrkd_cli.terminal.text import plural

if TYPE_CHECKING:
    from rmrkd_cli.prediction.results import PredictionResults

_SHOWN_CLASSES = 12


class OverlayFormat(str, Enum):
    png = "png"
    jpg = "jpg"
    none = "none"


def predict_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Use the network of this checkpoint, such as student.pth.")
    ],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Segment these images, videos, or folders of them.")
    ],
    *,
    preset: NetworkPreset = None,
    code: Code = None,
    dataset: Annotated[
        str | None,
        option(
            "--dataset",
            NETWORK,
            "Take class names, colours and image size from this data set.",
            default="the checkpoint's",
            metavar="NAME",
            autocompletion=complete_dataset,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        option(
            "--scale",
            INFERENCE,
            "Fit images into this width and height.",
            default="as in the evaluation",
            metavar="WxH",
        ),
    ] = None,
    max_value: Annotated[
        float | None,
        option(
            "--max-value",
            INFERENCE,
            "Make this value white in images of more than 8 bits.",
            default="the checkpoint's",
            min=1e-9,
            max=1e36,
            metavar="VALUE",
        ),
    ] = None,
    mode: ModeOption = Mode.whole,
    crop: CropOption = None,
    stride: StrideOption = None,
    flip: Flip = False,
    scales: Scales = "1.0",
    device: DeviceOption = Device.auto,
    workers: Annotated[int, option("--workers", DEVICES, "Read images in N processes.", min=0, max=64)] = 2,
    out: Annotated[Path, option("--out", OUTPUT, "Write into this new folder.", metavar="DIR")] = Path("predictions"),
    force: Annotated[
        bool, option("--force", OUTPUT, "Write into a folder that is not empty; files of the same names are replaced.")
    ] = False,
    overlay: Annotated[
        OverlayFormat, option("--overlay", OUTPUT, "Write images with coloured classes in this format.")
    ] = OverlayFormat.png,
    opacity: Annotated[
        float, option("--opacity", OUTPUT, "Draw the colours this opaque.", min=0.0, max=1.0, metavar="SHARE")
    ] = 0.5,
    legend: Annotated[
        bool, option("--legend/--no-legend", OUTPUT, "Draw a legend of the classes below each overlay.")
    ] = True,
    frames: Annotated[
        bool, option("--frames", OUTPUT, "Write a PNG of class indices for each video frame too.")
    ] = False,
    mean: MeanOption = None,
    std: StdOption = None,
    color: ColorOption = None,
    input_size: InputSizeOption = None,
    output: FileOutputOption = None,
    classes: ClassesOption = None,
) -> None:
    """Segment images and videos: class indices as PNG, overlays with a legend, and pixel shares.

    Examples:
        rmrkd predict student.pth photos drive.mp4
        rmrkd predict student.pth photos --out segmented --mode slide --scale 8064x6048
    """
    window, steps = parse_window(mode, crop, stride)
    results = predict_with(
        checkpoint, inputs, preset=preset, code=code or (), dataset=dataset, scale=parse_image_size(scale),
        max_value=max_value, mode=mode.value, crop=window, stride=steps, flip=flip, scales=parse_scales(scales),
        device=device.value, workers=workers, out=out, force=force, overlay=overlay.value, opacity=opacity,
        legend=legend, frames=frames, file_input=describe_file_input(mean, std, color, input_size, output, classes),
    )  # fmt: skip
    _print_results(results, out)


def _print_results(results: PredictionResults, out: Path) -> None:
    from rmrkd_cli.prediction.legend import format_share
    from rmrkd_cli.prediction.results import list_unread, mean_shares
    from rmrkd_cli.terminal import console

    if shares := mean_shares(results):
        rows = [[name, format_share(share)] for name, share in shares[:_SHOWN_CLASSES]]
        more = len(shares) - _SHOWN_CLASSES
        notes = [f"{more} more in predictions.csv"] if more > 0 else []
        console.print_table("Mean share of pixels", ["class", "share"], rows, notes)
    for note in results.notes:
        console.print_line(note)
    console.print_line(f"{out}: {len(results.entries)} of {len(results.entries) + len(results.unread)} inputs")
    if results.unread:
        raise RunError(
            f"{plural(len(results.unread), 'input')} could not be read completely; the others are in `{out}`:\n"
            + list_unread(results)
        )
