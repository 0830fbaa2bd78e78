"""How long networks take for one image, timed in turns so that a busy moment of the machine meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from rmrkd_cli.evaluation.machine import device_name
from rmrkd_cli.networks.memory_format import fastest_format

_WARM = 2
_FEWEST, _MOST = 5, 50


@torch.inference_mode()
def latencies(
    networks: Sequence[nn.Module], size: tuple[int, int], device: torch.device, budget: float = 10.0
) -> list[dict[str, Any]]:
    """Milliseconds for one image of (width, height), logits included: median and quartiles of warm runs, batch 1.

    Args:
        networks: Segmentors, timed as they are, in the fastest memory format: what a user of the file gets.
        budget: Seconds to spend on each; at least 5 and at most 50 runs are timed.
    """
    image = torch.zeros(1, 3, size[1], size[0], device=device)
    runs = [_timer(network.to(device).eval(), image) for network in networks]
    warm = [[run() for _ in range(_WARM)][-1] for run in runs]
    counts = [max(_FEWEST, min(_MOST, int(budget / max(seconds, 1e-6)))) for seconds in warm]
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(max(counts, default=0)):
        for run, count, own in zip(runs, counts, times, strict=True):
            if turn < count:
                own.append(1e3 * run())
    return [_summary(own, size, device) for own in times]


def _timer(network: nn.Module, image: torch.Tensor) -> Callable[[], float]:
    network.to(memory_format=fastest_format(network, image.device.type))

    def once() -> float:
        started = time.perf_counter()
        network.encode_decode(image, None)  # type: ignore[operator]
        if image.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return once


def _summary(times: list[float], size: tuple[int, int], device: torch.device) -> dict[str, Any]:
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
