"""A step of `psp101-psp18-city`, and RMRKD's loss alone, beside the plain form of the released losses."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks import rmrkd, step
from benchmarks.gpu_parts.common import FP32, TF32, Options, Record
from benchmarks.gpu_parts.training import peak_bytes, reset_peak
from benchmarks.memory import SIDES
from benchmarks.pairs import synchronize
from benchmarks.result import Setting

_LOSS = "rmrkd-19x2048"
_SECONDS = 3.0  # of timing


def run(options: Options, record: Record) -> None:
    """Record a row for each side of the step and of the loss, in float32 with and without TF32."""
    setting = Setting(quick=options.toy, device=options.device)
    for precision in (FP32, TF32) if options.device == "cuda" else (FP32,):
        precision.apply()
        for side in reversed(SIDES):  # the plain side may run out of memory
            for what, workload in (("step", step.workload), ("loss", rmrkd.workload)):
                name = "step" if what == "step" else _LOSS
                row = {"what": what, "side": side, "precision": precision.name}
                try:
                    record(row | _measure(lambda w=workload, n=name, s=side: w(n, s, setting), options))  # type: ignore[misc]
                except torch.OutOfMemoryError:
                    record(row | {"error": "out of memory"})


def _measure(make: Callable[[], Callable[[], object]], options: Options) -> dict[str, float | None]:
    """Return the seconds of a call and the peak memory, after two calls."""
    reset_peak(options.device)
    call = make()
    for _ in range(2):
        call()
    synchronize(options.device)
    count, started = 0, time.perf_counter()
    while count < 2 or (not options.toy and time.perf_counter() - started < _SECONDS):
        call()
        synchronize(options.device)
        count += 1
    return {"seconds": (time.perf_counter() - started) / count, "peak bytes": peak_bytes(options.device)}
