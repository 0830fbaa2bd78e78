"""The evaluation of one student on this device beside the CPU's, on the demo's validation images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_parts.common import FP32, TF32, Options, Record
from benchmarks.gpu_parts.runs import data_root
from rmrkd_cli.distributed.job import EvalJob
from rmrkd_cli.evaluation.run import run_evaluation


def run(options: Options, record: Record) -> None:
    """Record the share of pixels that get another class than on the CPU in batches of one."""
    checkpoint = options.folder / "uninterrupted" / "distill" / "student.pth"  # of part `runs`
    reference = _evaluate(checkpoint, options, "cpu", 1)
    for batch_size in (1, 4) if options.device == "cuda" else (4,):
        measured = _evaluate(checkpoint, options, options.device, batch_size)
        precision = TF32 if measured["evaluation"]["tf32"] else FP32  # as `rmrkd eval` chooses it
        row = {"device": options.device, "precision": precision.name, "batch size": batch_size}
        record(row | _compare(reference, measured))


def _evaluate(checkpoint: Path, options: Options, device: str, batch_size: int) -> dict[str, Any]:
    output = options.folder / f"evaluation-{device}-{batch_size}.json"
    run_evaluation(
        EvalJob(
            checkpoint=str(checkpoint),
            output=str(output),
            dataset=None,
            data_root=str(data_root(options)),
            preset=None,
            device=device,
            batch_size=batch_size,
            workers=0,
        )
    )
    result: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return result


def _compare(expected: dict[str, Any], got: dict[str, Any]) -> dict[str, Any]:
    first, second = (np.array(each["matrix"]) for each in (expected, got))
    return {
        "pixels": int(first.sum()),
        "different": int(np.abs(first - second).sum()) // 2,  # at least: each moves one pixel to another cell
        "cpu miou": expected["metrics"]["miou"],
        "miou": got["metrics"]["miou"],
    }
