"""INT8: onnxruntime's static quantization of an exported ONNX file, with a QuantizeLinear and DequantizeLinear pair for
each tensor (QDQ).

Activations are uint8, with a range for each tensor: the mean over the calibration images of the smallest and of the
largest value. Weights are int8, with a range for each output channel, and a bias is int32.

Measured: on CamVid, a DeepLabV3+ on MobileNetV2 lost 30 points of mIoU with one range for all channels of a weight. A
network trained on Cityscapes changed the class of 10.7 % of the pixels with the smallest and largest value of all
images, and of 6.0 % with the means. Percentiles (99.999) gave 5.7 %, but all activations of an image stay in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rmrkd_cli.errors import RmrkdError, RunError, summarize_error
from rmrkd_cli.exporters.calibration import Reader
from rmrkd_cli.exporters.onnx import INPUT, save_model

METHOD = "MinMax, averaged over the images"
SCHEME = "QDQ: uint8 activations, int8 weights with a range for each output channel"
# All others compute with float32. The normalization of the image, resizing, softmax, the layers' normalization and the
# decision for a class cost little, and lose digits. Products of two activations, as in attention, are left out too.
OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool",
    "Relu",
)  # fmt: skip


def write_int8(source: Path, target: Path, batches: Iterator[NDArray[Any]], *, weight_bits: int = 8) -> None:
    """Quantize an ONNX file of `write_onnx`; the result has no metadata yet.

    Args:
        batches: Inputs of the file to calibrate with; one at a time is in memory.
        weight_bits: 8, or 7: then no sum of two products exceeds 16 bits, which saturates on x86 CPUs without VNNI.

    Raises:
        RmrkdError: A batch cannot be read.
        RunError: onnxruntime cannot quantize the file.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    try:
        with _quiet_root_logger():
            quantize_static(
                str(source),
                str(target),
                Reader(batches, INPUT),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                reduce_range=weight_bits == 7,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"MatMulConstBOnly": True, "CalibMovingAverage": True},
            )
    except RmrkdError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base class
        raise RunError(
            f"onnxruntime cannot quantize this network: {summarize_error(error)[:300]}", "leave out --quantize int8"
        ) from error


def write_metadata(path: Path, properties: Mapping[str, str]) -> None:
    """Write the metadata of a quantized file, and check its graph. Raises RunError as `save_model`."""
    import onnx

    save_model(onnx.load(str(path)), properties, path)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Drop what a library logs on the root logger in this block: `logging.warning` would also add a handler to it."""
    root, level, handler = logging.getLogger(), logging.getLogger().level, logging.NullHandler()
    root.addHandler(handler)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
