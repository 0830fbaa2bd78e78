"""Measure the validation mIoU of what is stored: that of the averaged teachers."""

from __future__ import annotations

import signal
from collections.abc import Callable

import torch

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.loader import evaluation_images
from rmrkd_cli.data.loader_processes import count_loader_processes, evaluation_bytes
from rmrkd_cli.data.sample_reader import IGNORE
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.data.transforms import EvalItem, EvalSet
from rmrkd_cli.distributed.job import CacheJob
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import Interrupted
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.terminal.live_display import LiveDisplay
from rmrkd_cli.training.caching.ensemble import TeacherEnsemble, upsample
from rmrkd_cli.training.teacher_check import check_teacher_score, choose_images


def measure_teacher(
    ensemble: TeacherEnsemble,
    preset: Preset,
    info: DatasetInfo,
    dist_ctx: DistContext,
    display: LiveDisplay,
    job: CacheJob,
    stop_signal: Callable[[], int],
) -> tuple[float, tuple[int, int]]:
    """Return the mIoU, 0 to 1, and the number of counted and of all validation images.

    Args:
        preset: Has the smallest mIoU that is accepted.
        stop_signal: Returns the signal that any worker received, the same on all; called equally often on all.

    Raises:
        RmrkdError: The mIoU is below the minimum.
        Interrupted: After a signal.
    """
    samples = find_samples(info, "val")
    chosen = choose_images(samples)
    dataset = EvalSet(info, chosen, scales=job.scales)
    processes = count_loader_processes(
        "auto" if job.workers is None else job.workers, on_gpu=job.device == "cuda", local_workers=dist_ctx.local_size,
        item_bytes=evaluation_bytes(info.eval_scale, job.scales),
    )  # fmt: skip
    own = range(dist_ctx.rank, len(chosen), dist_ctx.size)
    items = evaluation_images(dataset, own, processes, pin=job.device == "cuda")
    rounds = -(-len(chosen) // dist_ctx.size)
    progress_bar = display.progress_bar("teacher", rounds)
    counts = ConfusionMatrix(info.num_classes, IGNORE)
    for done in range(1, rounds + 1):
        if signum := stop_signal():
            raise Interrupted(
                signum, f"stopped by {signal.Signals(signum).name} before the first image", "run the same command again"
            )
        item = next(items, None)
        if item is not None:
            _count(ensemble, item, counts, dist_ctx.device)
        if progress_bar is not None:
            progress_bar.update(done)
    if progress_bar is not None:
        progress_bar.close()
    counts.matrix = dist_ctx.all_reduce_sum(counts.matrix.to(dist_ctx.device))
    display.log(check_teacher_score(counts, len(chosen), len(samples), preset))
    return counts.result().miou, (len(chosen), len(samples))


def _count(ensemble: TeacherEnsemble, item: EvalItem, counts: ConfusionMatrix, device: torch.device) -> None:
    assert item.labels is not None
    outputs = ensemble([images.to(device) for images, _ in item.views])
    height, width = item.labels.shape
    prediction = upsample(outputs, (height, width), ensemble.align_corners).argmax(1)
    counts.update(prediction[0], item.labels.to(device))
