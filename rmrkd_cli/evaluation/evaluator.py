"""The one evaluation path: training, `eval` and `compare` all count here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.loader import evaluation_images
from rmrkd_cli.data.sample_reader import IGNORE
from rmrkd_cli.data.samples import Sample, fingerprint
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.batching import EqualSizes, default_batch_size, stacked
from rmrkd_cli.evaluation.image_counts import ImageCounts
from rmrkd_cli.evaluation.inference_modes import Window, class_maps
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.terminal.console import Meter

OnImage = Callable[[int, Tensor], None]


def protocol(
    info: DatasetInfo,
    samples: list[Sample],
    split: str,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    window: Window | None = None,
) -> dict[str, Any]:
    """Everything two results must share to be comparable."""
    shown = {"mode": "whole"} if window is None else {"mode": "slide", **_lists(window)}
    return {
        "dataset": info.name,
        "split": split,
        "images": len(samples),
        "fingerprint": fingerprint(samples),
        "classes": list(info.classes),
        "scale": list(info.eval_scale),
        "scales": list(scales),
        "flip": flip,
        **shown,
    }


def _lists(window: Window) -> dict[str, list[int]]:
    return {"window": list(window.crop), "stride": list(window.stride)}


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    dataset: EvalSet,
    world: DistContext,
    *,
    workers: int = 0,
    batch_size: int | None = None,
    window: Window | None = None,
    meter: Meter | None = None,
    on_image: OnImage | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    prepared: bool = False,
) -> ImageCounts:
    """Counts (truth, prediction) over the whole data set, each image once, however many workers share it.

    Args:
        network: A segmentor on the world's device; not changed.
        workers: Loader processes.
        batch_size: Images of equal size that the network sees together, none padded: the result is that of one by
            one, up to the rounding of kernels that go by the batch; none: what is fastest on the device.
        window: Slides over each image; none: the network sees it whole.
        meter: Shows how many of this worker's images are done.
        on_image: Called on this worker with (index of the image, prediction (H, W)), not always in their order.
        should_stop: Asked after each image that is read, by every worker equally often; ends the count early.
        prepared: The network is one of `inference_network` already.

    Returns:
        The counts of all workers, on every worker; nothing is counted where images have no labels.
    """
    ready = network if prepared else inference_network(network, world.device.type)
    own = range(world.rank, len(dataset), world.size)
    counts = ImageCounts(dataset.files.info.num_classes, IGNORE)
    if batch_size is None:
        batch_size = default_batch_size(world.device.type, dataset.files.info.eval_scale, dataset.views.scales)
    items = evaluation_images(dataset, own, workers, pin=world.device.type == "cuda")
    waiting = EqualSizes(batch_size)
    rounds = -(-len(dataset) // world.size)
    for done in range(1, rounds + 1):
        item = next(items, None)  # none on workers whose share is one less
        for batch in waiting.take(item, last=done == rounds):
            guesses = class_maps(ready, stacked(batch), world.device, window)
            for member, guess in zip(batch, guesses, strict=True):
                if member.labels is not None:
                    counts.count(member.index, guess, member.labels.to(world.device, non_blocking=True))
                if on_image is not None:
                    on_image(member.index, guess)
        if meter is not None and item is not None:
            meter.update(done)
        if should_stop():
            break
    counts.gather(world)
    return counts


def cost(network: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Parameters, and multiply-accumulates for one image of (width, height), counted without computing."""
    import copy

    from torch.utils.flop_counter import FlopCounterMode

    shadow = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(1, 3, size[1], size[0], device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow.encode_decode(image, None)  # type: ignore[operator]
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": counter.get_total_flops() // 2,
    }
