"""Worker processes that read files for a command, and end with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from typing import Any

from rmrkd_cli.errors import RunError
from rmrkd_cli.signals import ignore_stop_signals

MAX_WORKERS = 32
_CHUNK = 4  # items that a process takes at once
Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


def default_workers() -> int:
    """Return the number of CPUs that this process may use, at most `MAX_WORKERS`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MAX_WORKERS)


@contextmanager
def worker_pool(workers: int, initializer: Callable[[], None] | None = None) -> Iterator[Map]:
    """Yield a parallel `map` that keeps the order of its items and raises the errors of its function.

    The processes are spawned, because forking is unsafe while the progress bar's thread runs.

    Args:
        workers: Number of processes.
        initializer: Called once in each process before its first item.

    Raises:
        RunError: When a process is killed or crashes; the message names the item.
    """
    others = active_children()
    executor = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (initializer,))
    try:
        yield partial(_map, executor)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            if process not in others:
                process.kill()  # or an interrupted command would wait for the items in progress


def _map(executor: ProcessPoolExecutor, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    results = executor.map(function, items, chunksize=_CHUNK)
    for number in range(len(items)):
        try:
            yield next(results)
        except BrokenProcessPool as error:
            chunk = repr(items[number : number + _CHUNK])
            raise RunError(
                f"a worker process was killed or crashed, probably while it processed one of {chunk}"[:1000],
                "if memory ran out, use fewer processes with --workers; otherwise one of these files crashes the image "
                "decoder: replace it by a fresh copy",
            ) from error


def _start_worker(initializer: Callable[[], None] | None) -> None:
    """Leave signals to the command, and end when the command is gone, even if it was killed."""
    ignore_stop_signals()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _exit_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
