"""`rmrkd export`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.api.export import export
from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_dataset
from rmrkd_cli.cli.options import (
    Code,
    JsonOut,
    NetworkPreset,
    check_json_out,
    parse_image_size,
    write_json,
)

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
        Path, typer.Argument(metavar="OUT", help="Write this new file: OUT.onnx, or OUT.pt for TorchScript.")
    ],
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
    force: Annotated[bool, option("--force", _FILE, "Replace OUT, and the file of --json, if they exist.")] = False,
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
        float,
        option(
            "--tolerance",
            _CHECK,
            "Fail if a larger share of pixels gets another class.",
            min=0.0,
            max=1.0,
            metavar="SHARE",
        ),
    ] = 1e-4,
    json_out: JsonOut = None,
) -> None:
    """Export a network to ONNX or TorchScript, and check the file against the network.

    Examples:
        rmrkd export student.pth student.onnx
        rmrkd export student.pth student.pt --output classes
    """
    check_json_out(json_out, force=force)
    exported = export(
        checkpoint, target, format=file_format.value if file_format is not None else None, input=input_kind.value,
        output=output_kind.value, scale=parse_image_size(scale), dataset=dataset, force=force, preset=preset,
        code=code or (), check_images=check_images, tolerance=tolerance,
    )  # fmt: skip
    if json_out is not None:
        write_json(exported.to_json(), json_out)
    if json_out != "-":
        _print_exported(exported)


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
