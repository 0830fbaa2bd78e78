"""The training batches of each step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rmrkd_cli.data import loader
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.image_cache import ImageCache
from rmrkd_cli.data.loader_processes import count_loader_processes
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.sample_table import SampleTable
from rmrkd_cli.data.sampler import StepSampler
from rmrkd_cli.data.stored_outputs import StoredOutputs
from rmrkd_cli.data.transforms import TrainSet
from rmrkd_cli.data.unlabelled import count_labelled
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.presets.schema import Preset, Schedule

_BYTES_OF_PIXEL = 3 * 4 + 8  # three float32, and the label as int64


def training_batches(
    preset: Preset,
    schedule: Schedule,
    info: DatasetInfo,
    samples: SampleTable,
    dist_ctx: DistContext,
    *,
    first_step: int,
    last_step: int | None,
    image_cache: Path | None,
    outputs: StoredOutputs | None = None,
) -> Iterator[list[loader.Batch]]:
    """Yield this worker's batches of each step, one for each forward pass.

    Args:
        first_step: From 0.
        last_step: Exclusive; None for an endless stream.
        image_cache: File of decoded training images, or None.
        outputs: Of the teacher, for these samples; None: the batches have none.
    """
    files = SampleFiles(info, samples)
    dataset = TrainSet(
        files if image_cache is None else ImageCache(image_cache, files), scale=info.scale, crop=schedule.crop,
        ratio_range=preset.data.ratio_range, seed=preset.seed, skip_corrupt=schedule.skip_corrupt, outputs=outputs,
    )  # fmt: skip
    labelled, _ = count_labelled(samples)
    sampler = StepSampler(
        len(dataset), batch_size=schedule.batch_size, seed=preset.seed, world_size=dist_ctx.size, rank=dist_ctx.rank,
        accumulate=schedule.accumulate, first_step=first_step, last_step=last_step,
        labelled=labelled, share=preset.data.labelled_share if 0 < labelled < len(samples) else None,
    )  # fmt: skip
    processes = loader_processes(schedule, dist_ctx)
    return loader.training_batches(dataset, sampler, processes, pin=dist_ctx.device.type == "cuda")


def loader_processes(schedule: Schedule, dist_ctx: DistContext) -> int:
    """Return the number of processes that read this worker's images."""
    batch_bytes = schedule.batch_size * schedule.crop[0] * schedule.crop[1] * _BYTES_OF_PIXEL
    return count_loader_processes(
        schedule.workers, on_gpu=dist_ctx.device.type == "cuda", local_workers=dist_ctx.local_size,
        item_bytes=batch_bytes,
    )  # fmt: skip
