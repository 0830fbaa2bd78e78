"""Write the INT8 file of an export, and keep it only if it loses little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmrkd_cli.errors import RmrkdError, RunError, summarize_error
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork
from rmrkd_cli.evaluation.model_card import ModelCard
from rmrkd_cli.exporters import int8, onnx
from rmrkd_cli.exporters.calibration import CalibrationImages, prepared
from rmrkd_cli.exporters.quantization_loss import Item, QuantizationLoss, check_loss, find_labelled, measure_loss
from rmrkd_cli.exporters.verify import normalize, synthetic_batches
from rmrkd_cli.terminal.messages import log
from rmrkd_cli.terminal.text import plural

if TYPE_CHECKING:
    from rmrkd_cli.exporters.run import ExportJob


def quantize_checked(
    job: ExportJob, model: CheckpointNetwork, card: ModelCard, images: CalibrationImages, source: Path, target: Path
) -> dict[str, Any]:
    """Quantize a float file that equals the network, and return what its metadata says about it.

    Raises:
        RmrkdError: An image cannot be read, or `job.data_root` has no images to measure.
        RunError: onnxruntime cannot quantize or run the file, or INT8 loses more than `job` allows.
    """
    labelled = find_labelled(model, job.dataset, job.data_root, images.calibrated)
    log(f"calibrating INT8 on {plural(len(images.calibrated), 'image')} of `{job.calibration}`")
    pictures = prepared(images.calibrated, card)
    int8.write_int8(source, target, pictures if job.raw else map(normalize, pictures), weight_bits=job.weight_bits)
    runners = _open_checked(job, source, target)
    measured: Iterator[Item]
    if labelled is not None:
        measured, count, name = iter(labelled), len(labelled.positions), labelled.name
    else:
        measured = ((image, None) for image in prepared(images.held_out, card))
        count, name = len(images.held_out), f"`{job.calibration}`"
    log(f"comparing INT8 with float on {plural(count, 'image')} of {name}")
    loss: QuantizationLoss = measure_loss(runners, measured, model.network, name, raw=job.raw)
    check_loss(loss, job.max_loss, job.tolerance)
    return {
        "type": "int8", "scheme": int8.SCHEME, "weight_bits": job.weight_bits, "operators": list(int8.OPERATORS),
        "calibration": {"images": len(images.calibrated), "method": int8.METHOD},
        "measured": loss.to_json(), "float_bytes": source.stat().st_size,
    }  # fmt: skip


def _open_checked(job: ExportJob, source: Path, target: Path) -> tuple[onnx.Runner, onnx.Runner]:
    """Open the float and the INT8 file.

    Raises:
        RunError: The INT8 file does not run at several sizes, or does not return finite numbers of the same shape.
    """
    try:
        reference, run = onnx.onnx_runner(source), onnx.onnx_runner(target)
        for _, batch in synthetic_batches((96, 64)):
            given = batch if job.raw else normalize(batch)
            output, expected = run(given), reference(given)
            if output.shape != expected.shape or output.dtype != expected.dtype or not np.isfinite(output).all():
                raise RunError(f"the INT8 file returns {output.dtype} {output.shape}, or numbers that are not finite")
        return reference, run
    except RmrkdError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base class
        raise RunError(f"the INT8 file does not run: {summarize_error(error)[:300]}") from error
