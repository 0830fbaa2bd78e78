"""The options of `rmrkd export --quantize`, and what the command prints about the file."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rmrkd_cli.cli.command import option

if TYPE_CHECKING:
    from rmrkd_cli.exporters.run import ExportResult

INT8 = "INT8"


class Quantize(str, Enum):
    int8 = "int8"


QuantizeOption = Annotated[
    Quantize | None,
    option("--quantize", INT8, "Compute in 8-bit integers; needs ONNX and --calibration.", default="float32"),
]
CalibrationOption = Annotated[
    Path | None,
    option(
        "--calibration",
        INT8,
        "Measure the ranges of the network's values on images of this folder; label maps are not needed.",
        metavar="DIR",
    ),
]
CalibrationImagesOption = Annotated[
    int, option("--calibration-images", INT8, "Calibrate with N images of the folder.", min=4, max=100_000)
]
WeightBitsOption = Annotated[
    int,
    option(
        "--weight-bits",
        INT8,
        "Store weights as 8-bit integers, or as 7-bit ones for x86 CPUs without VNNI, whose 8-bit sums can saturate.",
        min=7,
        max=8,
    ),
]
MaxLossOption = Annotated[
    float, option("--max-loss", INT8, "Fail if more points of mIoU are lost.", min=0.0, max=100.0, metavar="POINTS")
]
LabelsOption = Annotated[
    str | None,
    option(
        "--data-root",
        INT8,
        "Measure the mIoU on the validation images of this folder of the data set.",
        default="the checkpoint's folder, if it is there",
        metavar="DIR",
    ),
]


def print_quantization(exported: ExportResult) -> None:
    """Print mIoU, latency and size of float and INT8, and how INT8 was calibrated."""
    from rmrkd_cli.comparison.latency_notes import Timed, latency_warnings
    from rmrkd_cli.exporters.onnx import runtime_version
    from rmrkd_cli.report.tables import format_latency
    from rmrkd_cli.terminal import console

    facts: dict[str, Any] = exported.properties["quantization"]
    measured, latency = facts["measured"], exported.latency
    mious = measured.get("miou") or {}
    sizes = {"float": facts["float_bytes"], "int8": exported.bytes}
    changed = {"float": "", "int8": f"{100 * measured['changed']:.2f} %"}
    rows = [["torch", "", "", format_latency(latency["torch"]), ""]] + [
        [
            f"onnxruntime {name}", f"{100 * mious[name]:.2f}" if mious else "–", changed[name],
            format_latency(latency[f"onnxruntime_{name}"]), f"{sizes[name] / 1e6:.2f} MB",
        ]
        for name in ("float", "int8")
    ]  # fmt: skip
    size, threads = "x".join(map(str, exported.latency_size)), latency["torch"]["threads"]
    calibration = facts["calibration"]
    notes = [
        f"mIoU and classes on {measured['images']} images of {measured['source']}; calibrated with "
        f"{calibration['images']} other images ({calibration['method']})",
        f"latency of one image of {size}, {threads} threads, onnxruntime {runtime_version()}",
    ]
    if not mious:
        notes.append("no label maps were found, so the loss of mIoU is unknown: --data-root DIR measures it")
    warnings = latency_warnings([Timed(name.replace("_", " "), one) for name, one in latency.items()])
    console.print_table(
        "Float and INT8",
        ["", "mIoU, %", "other class than float", "latency", "file"],
        rows,
        [*notes, *(f"warning: {warning}" for warning in warnings)],
    )
    console.print_line(f"{exported.job.target}: {exported.bytes / 1e6:.2f} MB, INT8, ONNX")
