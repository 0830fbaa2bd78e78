"""Latency of networks on one image. The runs of the networks alternate, so that load on the machine affects all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from rmrkd_cli.evaluation.machine import device_name
from rmrkd_cli.networks.memory_format import fastest_format

_WARMUP_RUNS = 2
_MIN_RUNS, _MAX_RUNS = 5, 50


@torch.inference_mode()
def measure_latencies(
    networks: Sequence[nn.Module], size: tuple[int, int], device: torch.device, budget: float = 10.0
) -> list[dict[str, Any]]:
    """Measure the milliseconds from one image of (width, height) to its logits: median and quartiles, batch size 1.

    Args:
        networks: Segmentors; each is timed as it is, in the fastest memory format.
        budget: Seconds per network; 5 to 50 runs are timed.
    """
    image = torch.zeros(1, 3, size[1], size[0], device=device)
    runs = [_timed_run(network.to(device).eval(), image) for network in networks]
    warm = [[run() for _ in range(_WARMUP_RUNS)][-1] for run in runs]
    counts = [max(_MIN_RUNS, min(_MAX_RUNS, int(budget / max(seconds, 1e-6)))) for seconds in warm]
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(max(counts, default=0)):
        for run, count, measured in zip(runs, counts, times, strict=True):
            if turn < count:
                measured.append(1e3 * run())
    return [_summarize(measured, size, device) for measured in times]


def _timed_run(network: nn.Module, image: torch.Tensor) -> Callable[[], float]:
    """Return a function that runs the network once and returns the seconds it took."""
    network.to(memory_format=fastest_format(network, image.device.type))

    def run() -> float:
        started = time.perf_counter()
        network.encode_decode(image, None)  # type: ignore[operator]
        if image.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return run


def _summarize(times: list[float], size: tuple[int, int], device: torch.device) -> dict[str, Any]:
    low, median, high = statistics.quantiles(times, n=4)
    return {
        "median_ms": median,
        "low_ms": low,
        "high_ms": high,
        "runs": len(times),
        "size": list(size),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }
