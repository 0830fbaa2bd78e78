"""The evaluation loop that `train`, `eval` and `compare` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.loader import evaluation_images
from rmrkd_cli.data.sample_reader import IGNORE
from rmrkd_cli.data.samples import Sample, fingerprint
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.batching import SizeBatcher, default_batch_size, stack_views
from rmrkd_cli.evaluation.image_counts import ImageCounts
from rmrkd_cli.evaluation.inference_modes import Window, segment_images
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.terminal.live_display import ProgressBar

OnPrediction = Callable[[int, Tensor], None]


def make_protocol(
    info: DatasetInfo,
    samples: Sequence[Sample],
    split: str,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    window: Window | None = None,
) -> dict[str, Any]:
    """Return the evaluation settings that two results must share to be comparable."""
    mode: dict[str, Any] = {"mode": "whole"}
    if window is not None:
        mode = {"mode": "slide", "window": list(window.crop), "stride": list(window.stride)}
    return {
        "dataset": info.name,
        "split": split,
        "images": len(samples),
        "fingerprint": fingerprint(samples),
        "classes": list(info.classes),
        "scale": list(info.eval_scale),
        "scales": list(scales),
        "flip": flip,
        **mode,
        **({"max_value": info.max_value} if info.max_value is not None else {}),
    }


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    dataset: EvalSet,
    dist_ctx: DistContext,
    *,
    workers: int = 0,
    batch_size: int | None = None,
    window: Window | None = None,
    boundary_width: float | None = None,
    progress_bar: ProgressBar | None = None,
    on_prediction: OnPrediction | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    prepared: bool = False,
) -> ImageCounts:
    """Count the (truth, prediction) pixel pairs of a data set; all ranks share the images, each image counts once.

    Args:
        network: A segmentor on the device of `dist_ctx`; it is not changed.
        workers: Loader processes per rank.
        batch_size: Images of equal size per batch, without padding. None: `default_batch_size`. The result does not
            depend on it, except where a kernel rounds differently for another batch size.
        window: Slides over each image; None: the network gets the whole image.
        boundary_width: Count the boundaries of the classes too, of this share of the image's diagonal; None: not.
        progress_bar: Shows the progress of this rank.
        on_prediction: Called on this rank with (index of the image, prediction (H, W)), in no fixed order.
        should_stop: Checked after each image, equally often on every rank; True ends the count early.
        prepared: `network` comes from `inference_network` already.

    Returns:
        The counts summed over all ranks, on every rank. Images without labels are not counted.
    """
    ready = network if prepared else inference_network(network, dist_ctx.device.type)
    indices = range(dist_ctx.rank, len(dataset), dist_ctx.size)
    counts = ImageCounts(dataset.files.info.num_classes, IGNORE, boundary_width)
    if batch_size is None:
        batch_size = default_batch_size(dist_ctx.device.type, dataset.files.info.eval_scale, dataset.views.scales)
    items = evaluation_images(dataset, indices, workers, pin=dist_ctx.device.type == "cuda")
    batcher = SizeBatcher(batch_size)
    rounds = -(-len(dataset) // dist_ctx.size)
    for done in range(1, rounds + 1):
        item = next(items, None)  # None on a rank that has one image less
        for batch in batcher.add(item, last=done == rounds):
            predictions = segment_images(ready, stack_views(batch, dist_ctx.device), dist_ctx.device, window)
            for member, prediction in zip(batch, predictions, strict=True):
                if member.labels is not None:
                    labels = member.labels.to(dist_ctx.device, non_blocking=True)
                    counts.update_image(member.index, prediction, labels)
                if on_prediction is not None:
                    on_prediction(member.index, prediction)
        if progress_bar is not None and item is not None:
            progress_bar.update(done)
        if should_stop():
            break
    counts.gather(dist_ctx)
    return counts
