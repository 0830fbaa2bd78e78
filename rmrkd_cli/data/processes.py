"""Processes that read files beside the command, and end with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rmrkd_cli.errors import RunError
from rmrkd_cli.signals import end_children, ignore_stops

MOST_WORKERS = 32


def default_workers() -> int:
    """A process for each CPU that this one may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST_WORKERS)


@contextmanager
def processes(count: int, begin: Callable[[], None]) -> Iterator[Callable[[Any, Any], Iterator[Any]]]:
    """Gives a `map` over processes, each prepared by `begin`.

    They are started anew, not forked, since the bar has a thread. Whatever ends the command ends them at once.

    Raises:
        RunError: When one of them is lost.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=begin)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise RunError(
            "a process that reads images is gone", "killed for want of memory? fewer with --workers"
        ) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        end_children()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def serve() -> None:
    """Prepares such a process: it leaves signals to its owner, and ends with it, however that ends."""
    from multiprocessing import parent_process

    ignore_stops()
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)
