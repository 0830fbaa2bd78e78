"""Worker processes that read files for a command, and end with it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any

from rmrkd_cli.errors import RunError
from rmrkd_cli.signals import ignore_stop_signals
from rmrkd_cli.storage.resources import usable_cores

MAX_WORKERS = 32
_EXIT_SECONDS = 5.0
_CHUNK = 4  # items that a process takes at once
Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
_own: dict[str, Any] = {}  # in a worker: its slot in the shared array of items in progress


@dataclass
class _Shared:
    """What each process gets when it starts.

    Attributes:
        initializer: Called before its first item.
        in_progress: Pairs, one for each process: its PID, and the number of its current item from 1, or 0.
        started: Count of the processes that have started.
    """

    initializer: Callable[[], None] | None
    in_progress: Any
    started: Any


def default_workers() -> int:
    """Return the number of CPUs that this process may use, at most `MAX_WORKERS`."""
    return min(usable_cores(), MAX_WORKERS)


@contextmanager
def worker_pool(workers: int, initializer: Callable[[], None] | None = None) -> Iterator[Map]:
    """Yield a parallel `map` that keeps the order of its items and raises the errors of its function.

    The processes are spawned, because forking is unsafe while the progress bar's thread runs.

    Args:
        workers: Number of processes.
        initializer: Called once in each process before its first item.

    Raises:
        RunError: When a process is killed or crashes; the message names its item.
    """
    others = active_children()
    context = get_context("spawn")
    in_progress = context.Array("q", 2 * workers, lock=False)
    shared = _Shared(initializer, in_progress, context.Value("i", 0))
    executor = ProcessPoolExecutor(workers, context, _start_worker, (shared,))
    try:
        yield partial(_map, executor, in_progress)
    finally:
        _end(executor, others)
        shared.started = None  # a traceback keeps the executor alive, and with it this lock


def _end(executor: ProcessPoolExecutor, others: list[BaseProcess]) -> None:
    """Kill the processes, or an interrupted command would wait for the items in progress; wait for the threads.

    The locks of the executor's queues are named semaphores. If the command ended before the threads that use them,
    Python's resource tracker would remove them, and print a warning.

    Args:
        others: Child processes that do not belong to the executor.
    """
    waiter = threading.Thread(target=executor.shutdown, daemon=True)  # it may never end, after a crash
    waiter.start()
    for process in active_children():
        if process not in others:
            process.kill()
    waiter.join(_EXIT_SECONDS)


def _map(
    executor: ProcessPoolExecutor, in_progress: Sequence[int], function: Callable[[Any], Any], items: Sequence[Any]
) -> Iterator[Any]:
    results = executor.map(partial(_process, function), enumerate(items), chunksize=_CHUNK)
    for _ in items:
        try:
            yield next(results)
        except BrokenProcessPool as error:
            lost = ", ".join(repr(items[index]) for index in _items_of_dead_processes(in_progress))
            raise RunError(
                f"a worker process was killed or crashed while it processed {lost or 'no file'}"[:1000],
                "if memory ran out, use fewer processes with --workers; otherwise this file crashes the image decoder: "
                "replace it by a fresh copy",
            ) from error


def _items_of_dead_processes(in_progress: Sequence[int]) -> list[int]:
    """Return the indices of the items that processes were at work on when they ended."""
    deadline = time.monotonic() + _EXIT_SECONDS
    while True:
        alive = {process.pid for process in active_children()}
        slots = zip(in_progress[::2], in_progress[1::2], strict=True)
        dead = [number - 1 for pid, number in slots if number and not (pid in alive and _exists(pid))]
        if dead or time.monotonic() > deadline:
            return dead
        time.sleep(0.01)  # the executor learns of the end while the process is still exiting


def _exists(pid: int) -> bool:
    """Return whether there is such a process; `active_children` also lists one that the executor has just reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _start_worker(shared: _Shared) -> None:
    """Leave signals to the command, and end when the command is gone, even if it was killed."""
    ignore_stop_signals()
    initializer, in_progress, started = shared.initializer, shared.in_progress, shared.started
    with started.get_lock():
        _own.update(slot=2 * started.value, in_progress=in_progress)
        started.value += 1
    in_progress[_own["slot"]] = os.getpid()
    threading.Thread(target=exit_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _process(function: Callable[[Any], Any], numbered: tuple[int, Any]) -> Any:
    """Process one item in a worker, and leave its number where the command can read it after a crash."""
    index, item = numbered
    slot, in_progress = _own["slot"] + 1, _own["in_progress"]
    in_progress[slot] = index + 1
    result = function(item)
    in_progress[slot] = 0
    return result


def exit_with_parent() -> None:
    """Wait for the command that made this process, and end this process too; return in the command itself."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
