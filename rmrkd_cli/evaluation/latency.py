"""Latency of networks on one image, measured so that load on the machine affects all of them alike."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from rmrkd_cli.evaluation.machine import CoresInUse, device_name
from rmrkd_cli.networks.feature_maps import segment
from rmrkd_cli.networks.memory_format import fastest_format

_WARMUP_RUNS = 2
_MIN_ROUNDS, _MAX_ROUNDS = 7, 50


@torch.inference_mode()
def measure_latencies(
    networks: Sequence[nn.Module], size: tuple[int, int], device: torch.device, budget: float = 10.0
) -> list[dict[str, Any]]:
    """Measure the milliseconds from one image of (width, height) to its logits: median and quartiles, batch size 1.

    The networks run in turns, see `time_in_turns`. Networks with the same layers take the same time, so their runs are
    pooled: they get one result.

    Args:
        networks: Segmentors; each is timed as it is, in the fastest memory format.
        budget: Seconds per network, on average.
    """
    image = torch.zeros(1, 3, size[1], size[0], device=device)
    runs = [_one_run(network.to(device).eval(), image) for network in networks]
    layers = [_layers(network) for network in networks]
    times, load = time_in_turns(runs, budget)
    pooled = {key: [*itertools.chain(*itertools.compress(times, (of == key for of in layers)))] for key in layers}
    facts = {"size": list(size), "device": device_name(device), "threads": torch.get_num_threads(), **load}
    return [{**summarize_times(pooled[key]), **facts, "pooled": layers.count(key)} for key in layers]


def time_in_turns(runs: Sequence[Callable[[], object]], budget: float) -> tuple[list[list[float]], dict[str, float]]:
    """Time functions in rounds: each runs once per round, and every other round reverses their order.

    Args:
        budget: Seconds per function, on average; 7 to 50 rounds are timed after 2 runs of each.

    Returns:
        The milliseconds of each function's runs, and the load by other processes meanwhile, see `CoresInUse`.
    """
    seconds = sum([[_time(run) for _ in range(_WARMUP_RUNS)][-1] for run in runs])
    rounds = max(_MIN_ROUNDS, min(_MAX_ROUNDS, int(budget * len(runs) / max(seconds, 1e-6))))
    times: list[list[float]] = [[] for _ in runs]
    cores = CoresInUse()
    for number in range(rounds):
        turns = list(zip(runs, times, strict=True))
        for run, measured in turns if number % 2 == 0 else reversed(turns):
            measured.append(1e3 * _time(run))
    return times, cores.measure()


def summarize_times(times: Sequence[float]) -> dict[str, Any]:
    """Return median, quartiles and minimum of milliseconds, and the number of runs."""
    low, median, high = statistics.quantiles(times, n=4)
    return {"median_ms": median, "low_ms": low, "high_ms": high, "min_ms": min(times), "runs": len(times)}


def _time(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _one_run(network: nn.Module, image: torch.Tensor) -> Callable[[], None]:
    """Return a function that runs the network once, to the end."""
    network.to(memory_format=fastest_format(network, image.device.type))

    def run() -> None:
        segment(network, image)
        if image.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _layers(network: nn.Module) -> str:
    """Return a text that is equal for networks whose layers and shapes are equal, whatever their weights."""
    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in network.state_dict().items()]
    return f"{network!r} {shapes}"
