"""`rmrkd export`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.options import JsonOut, check_inputs, check_json_out, dataset_name, image_scale, write_json
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.storage.output_paths import check_new_file

if TYPE_CHECKING:
    from rmrkd_cli.export.run import ExportResult


class Format(str, Enum):
    onnx = "onnx"
    torchscript = "torchscript"


class Input(str, Enum):
    raw = "raw"
    normalized = "normalized"


class Output(str, Enum):
    logits = "logits"
    classes = "classes"


_SUFFIXES = {".onnx": Format.onnx, ".pt": Format.torchscript, ".torchscript": Format.torchscript}


def export_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A student's file, or any other.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="OUT.onnx, or OUT.pt for TorchScript.")],
    form: Annotated[Format | None, typer.Option("--format", help="(default: by how OUT ends)")] = None,
    given: Annotated[
        Input, typer.Option("--input", help="Take RGB images of 0 to 255 (uint8), or normalised ones (float32).")
    ] = Input.raw,
    output: Annotated[Output, typer.Option("--output", help="Give logits, or each pixel's class.")] = Output.logits,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Whose network it is, where the file does not say.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose class names, where the file has none.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(metavar="WxH", help="The size that images are fitted into, told in the file.")
    ] = None,
    check_images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Check it on these images as well, the first 32.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="SHARE", help="Of pixels that may get another class.")
    ] = 1e-4,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
    json_out: JsonOut = None,
) -> None:
    """Write a network as ONNX or TorchScript, checked against itself."""
    from rmrkd_cli.presets.loader import load_preset

    chosen = _form(form, target)
    name, size = dataset_name(dataset), image_scale(scale)
    check_new_file(target, force=force, inputs=[checkpoint])
    check_json_out(json_out)
    check_inputs([check_images] if check_images is not None else [])
    own = load_preset(preset) if preset is not None else None
    require_mmseg()
    from rmrkd_cli.export.run import ExportJob, run_export

    job = ExportJob(
        checkpoint=checkpoint, target=target, format=chosen.value, input=given.value, output=output.value, preset=own,
        dataset=name, scale=size, tolerance=tolerance, check_images=check_images,
    )  # fmt: skip
    exported = run_export(job)
    if json_out is not None:
        write_json(exported.to_json(), json_out)
    if json_out != "-":
        _show(exported)


def _form(given: Format | None, target: Path) -> Format:
    found = _SUFFIXES.get(target.suffix)
    if found is None and given is None:
        raise RmrkdError(f"`{target.name}` ends neither as an ONNX nor as a TorchScript file", "OUT.onnx, or OUT.pt")
    if found is not None and given is not None and given is not found:
        raise RmrkdError(f"`{target.name}` does not end as a {given.value} file does", "leave out --format")
    return given or found or Format.onnx


def _show(exported: ExportResult) -> None:
    from rmrkd_cli.export.verify import changed_share
    from rmrkd_cli.terminal import console

    rows = [
        [
            one.what, f"{one.size[0]}x{one.size[1]}", str(one.batch),
            f"{one.logits:.1e}" if one.logits is not None else "–", f"{one.differing} of {one.pixels}",
        ]
        for one in exported.differences
    ]  # fmt: skip
    times = ", ".join(f"{name} {value:.0f} ms" for name, value in exported.latency_ms.items())
    size = "x".join(map(str, exported.latency_size))
    console.show_table(
        "The file against the network",
        ["images", "size", "batch", "logits differ by", "pixels of another class"],
        rows,
        [f"{changed_share(exported.differences):.1e} of all pixels; one image of {size}: {times}"],
    )
    job = exported.job
    console.write_line(
        f"{job.target}: {exported.parameters / 1e6:.2f} M parameters, {exported.bytes / 1e6:.2f} MB, {_kind(exported)}"
    )


def _kind(exported: ExportResult) -> str:
    from rmrkd_cli.export.onnx import OPSET, runtime_version

    job = exported.job
    takes = f"{'uint8' if job.raw else 'float32'} (N, 3, H, W)"
    gives = "classes (N, H, W)" if job.classes else "logits (N, C, H, W)"
    if job.format == Format.onnx.value:
        return f"ONNX opset {OPSET}, run in onnxruntime {runtime_version()}, {takes} to {gives}"
    return f"TorchScript, {takes} to {gives}"
