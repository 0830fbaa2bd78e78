"""`rmrkd export`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.api.export import export_with
from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_dataset
from rmrkd_cli.cli.hub_option import HubOption, print_hub
from rmrkd_cli.cli.options import (
    Code,
    JsonOut,
    NetworkPreset,
    check_json_out,
    parse_image_size,
    write_json,
)
from rmrkd_cli.cli.quantization_options import (
    CalibrationImagesOption,
    CalibrationOption,
    LabelsOption,
    MaxLossOption,
    QuantizeOption,
    WeightBitsOption,
    print_quantization,
)
from rmrkd_cli.exporters.quantization_settings import CALIBRATION_IMAGES, MAX_LOSS, WEIGHT_BITS
from rmrkd_cli.storage.folder_contents import network_path

if TYPE_CHECKING:
    from rmrkd_cli.exporters.run import ExportResult

_FILE, _CHECK = "Exported file", "Check"


class Format(str, Enum):
    onnx = "onnx"
    torchscript = "torchscript"


class Input(str, Enum):
    raw = "raw"
    normalized = "normalized"


class Output(str, Enum):
    logits = "logits"
    classes = "classes"


def export_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Export the network of this checkpoint, such as student.pth.")
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            help="Write this new file: OUT.onnx, or OUT.pt for TorchScript.",
            show_default="no file, with --hub",
        ),
    ] = None,
    file_format: Annotated[
        Format | None, option("--format", _FILE, "Write this file format.", default="by the ending of OUT")
    ] = None,
    input_kind: Annotated[
        Input, option("--input", _FILE, "Take RGB images of 0 to 255 (uint8), or normalized ones (float32).")
    ] = Input.raw,
    output_kind: Annotated[
        Output, option("--output", _FILE, "Return logits, or the class index of each pixel.")
    ] = Output.logits,
    scale: Annotated[
        str | None,
        option(
            "--scale",
            _FILE,
            "Record the image size that the network expects in the file.",
            default="as in the evaluation",
            metavar="WxH",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        option(
            "--dataset",
            _FILE,
            "Record the class names of this data set in the file.",
            default="the checkpoint's",
            metavar="NAME",
            autocompletion=complete_dataset,
        ),
    ] = None,
    force: Annotated[
        bool, option("--force", _FILE, "Replace OUT, the files in --hub, and the file of --json.")
    ] = False,
    preset: NetworkPreset = None,
    code: Code = None,
    check_images: Annotated[
        Path | None,
        option(
            "--check-images",
            _CHECK,
            "Compare the file with the network on the first 32 images of this folder too.",
            default="random images only",
            metavar="DIR",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        option(
            "--tolerance",
            _CHECK,
            "Fail if a larger share of pixels gets another class.",
            default="0.0001; 0.05 for INT8 without label maps",
            min=0.0,
            max=1.0,
            metavar="SHARE",
        ),
    ] = None,
    quantize: QuantizeOption = None,
    calibration: CalibrationOption = None,
    calibration_images: CalibrationImagesOption = CALIBRATION_IMAGES,
    weight_bits: WeightBitsOption = WEIGHT_BITS,
    max_loss: MaxLossOption = MAX_LOSS,
    data_root: LabelsOption = None,
    hub: HubOption = None,
    json_out: JsonOut = None,
) -> None:
    """Export a network to ONNX, TorchScript or a Hugging Face folder, and check it against the network.

    Examples:
        rmrkd export student.pth student.onnx
        rmrkd export student.pth student.int8.onnx --quantize int8 --calibration data/camvid/train
    """
    check_json_out(json_out, force=force)
    quantization = {
        "quantize": quantize.value if quantize is not None else None, "calibration": calibration,
        "calibration_images": calibration_images, "weight_bits": weight_bits, "max_loss": max_loss,
        "data_root": data_root,
    }  # fmt: skip
    exported, folder = export_with(
        network_path(checkpoint), target, hub, format=file_format.value if file_format is not None else None,
        input=input_kind.value, output=output_kind.value, scale=parse_image_size(scale), dataset=dataset, force=force,
        preset=preset, code=code or (), tolerance=tolerance, check_images=check_images, quantization=quantization,
    )  # fmt: skip
    if json_out is not None:
        write_json({**(exported.to_json() if exported else {}), **(folder.to_json() if folder else {})}, json_out)
    if json_out != "-" and exported is not None:
        _print_exported(exported)
    if json_out != "-" and folder is not None:
        print_hub(folder)


def _print_exported(exported: ExportResult) -> None:
    from rmrkd_cli.comparison.latency_notes import Timed, latency_warnings
    from rmrkd_cli.exporters.verify import changed_share
    from rmrkd_cli.report.tables import format_latency
    from rmrkd_cli.terminal import console

    rows = [
        [
            one.what, f"{one.size[0]}x{one.size[1]}", str(one.batch),
            f"{one.logits:.1e}" if one.logits is not None else "–", f"{one.differing} of {one.pixels}",
        ]
        for one in exported.differences
    ]  # fmt: skip
    times = ", ".join(f"{name} {format_latency(latency)}" for name, latency in exported.latency.items())
    warnings = latency_warnings([Timed(name, latency) for name, latency in exported.latency.items()])
    size = "x".join(map(str, exported.latency_size))
    if exported.job.quantize is not None:
        print_quantization(exported)
        return
    console.print_table(
        "The file against the network",
        ["images", "size", "batch", "logits differ by", "pixels of another class"],
        rows,
        [
            f"{changed_share(exported.differences):.1e} of all pixels; one image of {size}: {times}",
            *(f"warning: {warning}" for warning in warnings),
        ],
    )
    sizes = f"{exported.parameters / 1e6:.2f} M parameters, {exported.bytes / 1e6:.2f} MB"
    console.print_line(f"{exported.job.target}: {sizes}, {_describe_format(exported)}")


def _describe_format(exported: ExportResult) -> str:
    from rmrkd_cli.exporters.onnx import OPSET, runtime_version

    job = exported.job
    types = f"{'uint8' if job.input == Input.raw.value else 'float32'} (N, 3, H, W) to "
    types += "classes (N, H, W)" if job.output == Output.classes.value else "logits (N, C, H, W)"
    if job.format == Format.onnx.value:
        return f"ONNX opset {OPSET}, run in onnxruntime {runtime_version()}, {types}"
    return f"TorchScript, {types}"
