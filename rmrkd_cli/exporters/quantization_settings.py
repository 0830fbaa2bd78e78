"""The settings of an INT8 export: their defaults, and which go together. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.text import shorten_value

CALIBRATION_IMAGES, WEIGHT_BITS, MAX_LOSS = 128, 8, 1.0


def check_quantization(
    quantize: str | None,
    calibration: Path | None,
    calibration_images: int,
    weight_bits: int,
    max_loss: float,
    data_root: str | None,
    *,
    onnx: bool,
) -> dict[str, Any]:
    """Return the settings as arguments of `ExportJob`; empty without `quantize`.

    Args:
        quantize: "int8" or None.
        onnx: The file is ONNX.

    Raises:
        RmrkdError: They exclude each other, or the folder does not exist.
    """
    given = {
        "--calibration": calibration is not None, "--calibration-images": calibration_images != CALIBRATION_IMAGES,
        "--weight-bits": weight_bits != WEIGHT_BITS, "--max-loss": max_loss != MAX_LOSS,
        "--data-root": data_root is not None,
    }  # fmt: skip
    if quantize is None:
        for name in filter(given.get, given):
            raise RmrkdError(f"{name} is for an INT8 file, but --quantize is not given", "--quantize int8")
        return {}
    if quantize != "int8":
        raise RmrkdError(f"`quantize` must be int8, got `{shorten_value(quantize)}`", "--quantize int8")
    if weight_bits not in (7, 8) or calibration_images < 4 or not 0 <= max_loss <= 100:
        raise RmrkdError(
            f"`weight_bits` must be 7 or 8, `calibration_images` 4 or more, `max_loss` 0 to 100; got {weight_bits}, "
            f"{calibration_images} and {max_loss}"
        )
    if not onnx:
        raise RmrkdError("--quantize int8 writes ONNX files only", "OUT.onnx, such as student.int8.onnx")
    if calibration is None:
        raise RmrkdError(
            "--quantize int8 needs images, from which it measures the ranges of the network's values",
            "--calibration DIR, such as the folder of the training images",
        )
    if not calibration.is_dir():
        raise RmrkdError(f"`{calibration}` is not a folder", "--calibration DIR with images")
    return {
        "quantize": quantize, "calibration": calibration, "calibration_images": calibration_images,
        "weight_bits": weight_bits, "max_loss": max_loss, "data_root": data_root,
    }  # fmt: skip
