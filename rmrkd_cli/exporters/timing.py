"""The latency of exported files beside that of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from rmrkd_cli.evaluation.latency import summarize_times, time_in_turns
from rmrkd_cli.evaluation.model_card import Scale
from rmrkd_cli.exporters.onnx import Runner
from rmrkd_cli.exporters.verify import normalize, synthetic_images
from rmrkd_cli.networks.feature_maps import segment
from rmrkd_cli.networks.inference import inference_network

_SECONDS = 4.0  # of timing, for the network and for each file


def measure_file_latency(
    network: nn.Module, runners: Mapping[str, Runner], size: Scale, *, raw: bool
) -> dict[str, dict[str, Any]]:
    """Time files, and the network as `rmrkd predict` runs it, in turns and with the same number of threads.

    Args:
        runners: The files by name.
        size: (width, height) of the image.
        raw: The files take uint8 images, else normalized ones.

    Returns:
        Milliseconds and the load of the machine, see `evaluation.latency`; under `torch` and the names of the files.
    """
    image = synthetic_images(size, 1)
    normalized = normalize(image)
    inference = inference_network(network, "cpu")

    @torch.inference_mode()
    def run_torch() -> NDArray[Any]:
        logits: NDArray[Any] = segment(inference, torch.from_numpy(normalized)).numpy()
        return logits

    runs: list[Callable[[], object]] = [
        run_torch,
        *(partial(run, image if raw else normalized) for run in runners.values()),
    ]
    times, load = time_in_turns(runs, _SECONDS)
    facts = {"device": "cpu", "threads": torch.get_num_threads(), **load}
    return {name: {**summarize_times(own), **facts} for name, own in zip(("torch", *runners), times, strict=True)}
