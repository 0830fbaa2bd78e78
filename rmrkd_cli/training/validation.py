"""Validation during training, by all workers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.loader_processes import Wanted, count_loader_processes, evaluation_bytes
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.evaluation.evaluator import evaluate
from rmrkd_cli.evaluation.image_counts import ImageCounts
from rmrkd_cli.signals import StopRequest
from rmrkd_cli.terminal.live_display import LiveDisplay
from rmrkd_cli.training.validation_images import ValidationImages


class Validator:
    """Runs networks over validation images with the workers of a run.

    Args:
        loader_processes: Processes that read images, for each worker, or "auto".
    """

    def __init__(
        self, info: DatasetInfo, dist_ctx: DistContext, display: LiveDisplay, loader_processes: Wanted
    ) -> None:
        self.info, self.dist_ctx, self.display = info, dist_ctx, display
        self.loader_processes = count_loader_processes(
            loader_processes, on_gpu=dist_ctx.device.type == "cuda", local_workers=dist_ctx.local_size,
            item_bytes=evaluation_bytes(info.eval_scale),
        )  # fmt: skip

    def count(
        self,
        network: nn.Module,
        samples: Sequence[Sample],
        title: str,
        stop: StopRequest,
        *,
        prepared: bool = False,
        images: ValidationImages | None = None,
    ) -> tuple[ImageCounts, int]:
        """Return a network's counts over the samples, and the signal that any worker received (0: none).

        After a signal all workers stop after the same image, and the counts are incomplete.

        Args:
            title: Title of the progress bar.
            prepared: The network is already the result of `inference_network`.
            images: Receives the predictions for the trackers.
        """
        dataset = EvalSet(self.info, samples)
        progress_bar = self.display.progress_bar(title, math.ceil(len(dataset) / self.dist_ctx.size))
        signum = 0

        def should_stop() -> bool:
            nonlocal signum
            (signum,) = self.dist_ctx.all_reduce_max(stop.signum)
            return bool(signum)

        counts = evaluate(
            network, dataset, self.dist_ctx, workers=self.loader_processes, progress_bar=progress_bar,
            should_stop=should_stop, prepared=prepared,
            on_prediction=images.add_prediction if images is not None else None,
        )  # fmt: skip
        if progress_bar is not None:
            progress_bar.close()
        return counts, signum
