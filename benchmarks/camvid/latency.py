"""Size and speed of networks as ONNX files in onnxruntime, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS, WARM_UP = 20, 3
THREADS = (1, 2)
_FREE = (1, 3, 360, 480)  # sizes of an input that takes any: one of CamVid's images
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Speed:
    """Attributes: `megabytes` of the file; `milliseconds` of one image, median and smallest, by the threads."""

    megabytes: float
    milliseconds: dict[int, tuple[float, float]]

    @classmethod
    def read(cls, entries: Mapping[str, Any]) -> Speed:
        times = {int(threads): (pair[0], pair[1]) for threads, pair in entries["milliseconds"].items()}
        return cls(entries["megabytes"], times)

    def entries(self) -> dict[str, Any]:
        return asdict(self)


def measure(networks: Mapping[str, Path]) -> dict[str, Speed]:
    """Run each network on one image, in turns, with each number of threads.

    Args:
        networks: ONNX files by name. An input of free size gets an image of CamVid.
    """
    times: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in networks}
    for threads in THREADS:
        calls = {name: _call(path, threads) for name, path in networks.items()}
        taken: dict[str, list[float]] = {name: [] for name in networks}
        for turn in range(WARM_UP + ROUNDS):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                if turn >= WARM_UP:
                    taken[name].append(1e3 * (time.perf_counter() - began))
        for name, values in taken.items():
            times[name][threads] = (statistics.median(values), min(values))
    return {name: Speed(path.stat().st_size / 1e6, times[name]) for name, path in networks.items()}


def _call(path: Path, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    [given] = session.get_inputs()
    shape = [side if isinstance(side, int) else free for side, free in zip(given.shape, _FREE, strict=True)]
    image = np.random.default_rng(0).integers(0, 256, shape).astype(_TYPES[given.type])
    return lambda: session.run(None, {given.name: image})
