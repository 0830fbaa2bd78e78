"""Where loader processes come from: a server process that has imported what they need, and nothing else.

A fork of this process would copy the locks of its threads, such as the progress display's, in any state, and CUDA does
not survive a fork. A new interpreter for each loader process would import torch each time. Python's fork server does
neither.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import context, forkserver, resource_tracker
from types import ModuleType
from typing import Any

PRELOAD = ["rmrkd_cli.data.loader_preload"]  # imported by the server
_QUIET = "ignore:resource_tracker"  # a killed command cannot free its semaphores; their removal is no news


def start_loader_server(workers: object = None) -> None:
    """Start the server, which then imports while this process does other work.

    Args:
        workers: Loader processes that were asked for; with 0 there is nothing to start.
    """
    if workers == 0:
        return
    loader_context()
    with _quiet_tracker():
        resource_tracker.ensure_running()
    forkserver.ensure_running()


@cache
def loader_context() -> context.ForkServerContext:
    """Return the multiprocessing context of loader processes."""
    made = _LoaderContext()
    made.set_forkserver_preload(PRELOAD)
    return made


class _LoaderProcess(context.ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _without_main_module():
            return context.ForkServerProcess._Popen(process_obj)


class _LoaderContext(context.ForkServerContext):
    Process = _LoaderProcess


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Let a loader process not run the main module again, which may be a script that trains."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _quiet_tracker() -> Iterator[None]:
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{before},{_QUIET}" if before else _QUIET
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before
