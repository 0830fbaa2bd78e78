"""Batches for the training loop and images for evaluation, read ahead by loader processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from rmrkd_cli.data.sampler import StepSampler
from rmrkd_cli.data.transforms import EvalItem, EvalSet, TrainItem, TrainSet
from rmrkd_cli.errors import RmrkdError, WorkerLostError
from rmrkd_cli.signals import ignore_stop_signals

T = TypeVar("T")


class Batch(NamedTuple):
    """images (B, 3, H, W) float32, labels (B, 1, H, W) integers, and the indices of the samples.

    left_out: What is wrong with the files that others took the place of, a message each.
    """

    images: Tensor
    labels: Tensor
    indices: list[int]
    left_out: tuple[str, ...] = ()


def training_batches(dataset: TrainSet, sampler: StepSampler, workers: int, *, pin: bool) -> Iterator[list[Batch]]:
    """For each optimizer step of the sampler, the batches of its forward passes."""
    loader: DataLoader[Any] = DataLoader(
        _Told(dataset),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=quiet_worker,
        pin_memory=pin,
    )
    stream = iter(loader)
    try:
        for _ in sampler.steps:
            yield [_or_raise(next(stream)) for _ in range(sampler.accumulate)]
    finally:
        del stream  # an error's traceback would keep it, and torch cannot end its processes when it is collected late


def evaluation_images(dataset: EvalSet, indices: Sequence[int], workers: int, *, pin: bool) -> Iterator[EvalItem]:
    """One item at a time, in the order of `indices`."""
    loader: DataLoader[Any] = DataLoader(
        Subset(_Told(dataset), indices),
        batch_size=None,
        num_workers=min(workers, len(indices)),
        worker_init_fn=quiet_worker,
        pin_memory=pin,
    )
    for item in loader:
        yield _or_raise(item)


def prefetch_images(dataset: Dataset[T], count: int, workers: int, *, pin: bool) -> Iterator[T | RmrkdError]:
    """Items in order, and in the place of one that cannot be read what is wrong with it."""
    loader: DataLoader[Any] = DataLoader(
        _Told(dataset),
        sampler=range(count),
        batch_size=None,
        num_workers=min(workers, count // 2),  # for one alone none is worth starting
        worker_init_fn=quiet_worker,
        pin_memory=pin,
    )
    yield from loader


@contextmanager
def report_lost_loaders() -> Iterator[None]:
    """Around all that reads with loader processes: torch raises where the main thread happens to be.

    Raises:
        WorkerLostError: When such a process was killed.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise WorkerLostError(
            f"a process that reads images is gone: {str(error).splitlines()[0] if str(error) else 'no answer'}",
            "killed for want of memory? try fewer with --workers, or --cache off; --resume goes on",
        ) from error


class _Told(Dataset[Any]):
    """Hands an error for the user over as an item: raised in a loader process it would come with a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except RmrkdError as error:
            return error


def _or_raise(item: Any) -> Any:
    if isinstance(item, RmrkdError):
        raise item
    return item


def collate(items: list[TrainItem | RmrkdError]) -> Batch | RmrkdError:
    """A batch, or the first error met while it was read."""
    read = [item for item in items if isinstance(item, TrainItem)]
    if len(read) < len(items):
        return next(item for item in items if isinstance(item, RmrkdError))
    return Batch(
        torch.stack([item.image for item in read]),
        torch.stack([item.labels for item in read]),
        [item.index for item in read],
        tuple(message for item in read for message in item.left_out),
    )


def quiet_worker(_: int) -> None:
    """Loader processes leave signals to the process that owns them, and use one thread."""
    ignore_stop_signals()
    torch.set_num_threads(1)
