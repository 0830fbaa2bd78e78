"""Images a second of the training loader, from 2048x1024 PNG files, for some numbers of loader processes."""

from __future__ import annotations

import time

from benchmarks.data import draw_city
from benchmarks.gpu_parts.common import Options, Record
from rmrkd_cli.data.loader import training_batches
from rmrkd_cli.data.sampler import StepSampler
from rmrkd_cli.data.transforms import TrainSet
from rmrkd_cli.storage.resources import usable_cores

_BATCH = 2


def run(options: Options, record: Record) -> None:
    """Record a row for each number of processes."""
    size, crop = ((256, 128), (64, 64)) if options.toy else ((2048, 1024), (512, 1024))
    files = draw_city(options.folder / "city", size)
    dataset = TrainSet(files, scale=size, crop=crop, ratio_range=(0.5, 2.0), seed=0)
    cores = usable_cores()
    for workers in (1,) if options.toy else sorted({2, 4, 8, cores}):
        steps = 4 if options.toy else 16 * workers
        record({"processes": workers, "cores": cores, "images/s": _rate(dataset, workers, steps, options.device)})


def _rate(dataset: TrainSet, workers: int, steps: int, device: str) -> float:
    """Return the images a second after the first quarter, in which the processes start."""
    sampler = StepSampler(len(dataset), batch_size=_BATCH, seed=0, first_step=0, last_step=steps)
    untimed, started = steps // 4, 0.0
    for number, _ in enumerate(training_batches(dataset, sampler, workers, pin=device == "cuda"), 1):
        if number == untimed:
            started = time.perf_counter()
    return (steps - untimed) * _BATCH / (time.perf_counter() - started)
