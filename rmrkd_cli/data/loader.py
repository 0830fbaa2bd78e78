"""Batches for the training loop and images for evaluation, read ahead by loader processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from rmrkd_cli.data.order import StepSampler
from rmrkd_cli.data.transforms import EvalItem, EvalSet, TrainItem, TrainSet


class Batch(NamedTuple):
    """images (B, 3, H, W) float32, labels (B, 1, H, W) int64, and the indices of the samples."""

    images: Tensor
    labels: Tensor
    indices: list[int]


def training_batches(dataset: TrainSet, sampler: StepSampler, workers: int, *, pin: bool) -> Iterator[list[Batch]]:
    """For each optimizer step, the batches of its forward passes."""
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=quiet_worker,
        pin_memory=pin,
    )
    stream = iter(loader)
    for _ in range(len(sampler) // sampler.accumulate):
        yield [next(stream) for _ in range(sampler.accumulate)]


def evaluation_images(dataset: EvalSet, indices: Sequence[int], workers: int, *, pin: bool) -> Iterator[EvalItem]:
    """One item at a time, in the order of `indices`."""
    loader: DataLoader[Any] = DataLoader(
        Subset(dataset, indices),
        batch_size=None,
        num_workers=min(workers, len(indices)),
        worker_init_fn=quiet_worker,
        pin_memory=pin,
    )
    return iter(loader)


def collate(items: list[TrainItem]) -> Batch:
    return Batch(
        torch.stack([item.image for item in items]),
        torch.stack([item.labels for item in items]),
        [item.index for item in items],
    )


def quiet_worker(_: int) -> None:
    """Loader processes leave signals to the process that owns them, and use one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
