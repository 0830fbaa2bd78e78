"""Load training batches and evaluation images in loader processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from rmrkd_cli.data.loader_server import loader_context
from rmrkd_cli.data.sampler import StepSampler
from rmrkd_cli.data.transforms import TrainItem, TrainSet
from rmrkd_cli.data.worker_pool import exit_with_parent
from rmrkd_cli.errors import RmrkdError, WorkerLostError
from rmrkd_cli.signals import ignore_stop_signals

T = TypeVar("T")


class Batch(NamedTuple):
    """A training batch; images with label maps come first.

    Attributes:
        images: (B, 3, H, W) float32.
        labels: (B, 1, H, W) integers; 255 everywhere for an image without a label map.
        indices: Of the samples.
        skipped: An error message for each unreadable sample that was replaced.
        teacher_logits: (B, K, h, w) float16, from stored outputs; None without them.
        unlabelled: (U, 2) int64, for each of the last U images, which have no label maps, the height and width that it
            covers of the crop from the top left; None if all images have label maps.
    """

    images: Tensor
    labels: Tensor
    indices: list[int]
    skipped: tuple[str, ...] = ()
    teacher_logits: Tensor | None = None
    unlabelled: Tensor | None = None


def training_batches(dataset: TrainSet, sampler: StepSampler, workers: int, *, pin: bool) -> Iterator[list[Batch]]:
    """Yield, for each optimizer step of the sampler, the batches of its forward passes."""
    loader: DataLoader[Any] = DataLoader(
        _ErrorsAsItems(dataset),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=init_worker,
        pin_memory=pin,
        multiprocessing_context=_context(workers),
    )
    stream = iter(loader)
    try:
        for _ in sampler.steps:
            yield [_or_raise(next(stream)) for _ in range(sampler.accumulate)]
    finally:
        del stream  # a traceback would keep it alive, and torch cannot end its processes when it is collected late


def evaluation_images(dataset: Dataset[T], indices: Sequence[int], workers: int, *, pin: bool) -> Iterator[T]:
    """Yield one item at a time, in the order of `indices`."""
    loader: DataLoader[Any] = DataLoader(
        Subset(_ErrorsAsItems(dataset), indices),
        batch_size=None,
        num_workers=min(workers, len(indices)),
        worker_init_fn=init_worker,
        pin_memory=pin,
        multiprocessing_context=_context(min(workers, len(indices))),
    )
    for item in loader:
        yield _or_raise(item)


def prefetch_images(dataset: Dataset[T], count: int, workers: int, *, pin: bool) -> Iterator[T | RmrkdError]:
    """Yield the items in order; an unreadable item is replaced by its error."""
    loader: DataLoader[Any] = DataLoader(
        _ErrorsAsItems(dataset),
        sampler=range(count),
        batch_size=None,
        num_workers=min(workers, count // 2),  # a single item needs no process
        worker_init_fn=init_worker,
        pin_memory=pin,
        multiprocessing_context=_context(min(workers, count // 2)),
    )
    yield from loader


def _context(workers: int) -> BaseContext | None:
    """Return where loader processes come from; torch accepts this only if there are any."""
    return loader_context() if workers else None


@contextmanager
def report_lost_loaders() -> Iterator[None]:
    """Turn the error of a killed loader process, which torch raises anywhere in the block, into a WorkerLostError.

    Raises:
        WorkerLostError: When a loader process was killed.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        _stop_child_errors()
        raise WorkerLostError(
            f"a loader process was killed: {str(error).splitlines()[0] if str(error) else 'no answer'}",
            "if memory ran out, use fewer loader processes (--workers) or --cache off, and continue with --resume",
        ) from error


def _stop_child_errors() -> None:
    """Remove torch's handler, which raises again when the signal of the lost process arrives after its error."""
    while threading.current_thread() is threading.main_thread():
        with suppress(RuntimeError):  # the signal arrives at this moment
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return


class _ErrorsAsItems(Dataset[Any]):
    """Returns an RmrkdError as an item; torch would add the traceback of the loader process to a raised one."""

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
    """Return a batch, or the first error among its items."""
    read = [item for item in items if isinstance(item, TrainItem)]
    if len(read) < len(items):
        return next(item for item in items if isinstance(item, RmrkdError))
    read.sort(key=lambda item: item.unlabelled is not None)  # keeps the order of the others
    covered = [item.unlabelled for item in read if item.unlabelled is not None]
    logits = [item.teacher_logits for item in read if item.teacher_logits is not None]
    return Batch(
        torch.stack([item.image for item in read]),
        torch.stack([item.labels for item in read]),
        [item.index for item in read],
        tuple(message for item in read for message in item.skipped),
        torch.stack(logits) if len(logits) == len(read) else None,
        torch.tensor(covered) if covered else None,
    )


def init_worker(_: int) -> None:
    """Prepare a loader process: ignore the stop signals, which its command handles, end with it, and use one thread.

    torch ends it with its parent process, which is the server, and the server lives as long as its children.
    """
    ignore_stop_signals()
    threading.Thread(target=exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
