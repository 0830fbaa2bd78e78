"""Processes that read files beside the command, and end with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from rmrkd_cli.errors import RunError
from rmrkd_cli.signals import ignore_stops

MOST_WORKERS = 32
Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


def default_workers() -> int:
    """A process for each CPU that this one may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST_WORKERS)


@contextmanager
def processes(count: int, begin: Callable[[], None] | None = None) -> Iterator[Map]:
    """Gives a `map` in order over processes, each prepared by `begin`; an exception of theirs is raised here.

    They are started anew, not forked, since the bar has a thread; and talk through pipes alone, so that whatever ends
    the command ends them at once, and even its being killed ends them as soon as they look up.

    Raises:
        RunError: Naming what one was at work on when it was lost.
    """
    from multiprocessing import get_context

    context = get_context("spawn")
    crew, pipes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, begin), daemon=True)
            process.start()
            theirs.close()
            crew.append(process)
            pipes.append(ours)
        yield partial(_map, pipes)
    finally:
        for process in crew:
            process.kill()
        for process, pipe in zip(crew, pipes, strict=True):
            process.join()
            pipe.close()


def _map(pipes: Sequence[Connection], function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    waiting = iter(enumerate(items))
    busy: dict[Any, int] = {}
    results: dict[int, Any] = {}
    told = 0

    def give(pipe: Any) -> None:
        for index, item in waiting:
            busy[pipe] = index
            with suppress(OSError):  # a lost process is met when its answer is read
                pipe.send((function, item))
            return

    for pipe in pipes:
        give(pipe)
    while busy:
        ready: list[Any] = wait(list(busy))
        for pipe in ready:
            index = busy.pop(pipe)
            try:
                answer, error = pipe.recv()
            except (EOFError, OSError) as lost:
                raise _lost(items[index]) from lost
            if error is not None:
                raise error
            results[index] = answer
            give(pipe)
        while told in results:
            yield results.pop(told)
            told += 1


def _serve(pipe: Connection, begin: Callable[[], None] | None) -> None:
    """Leaves signals to the command, and ends when that closes its end of the pipe or is no more."""
    ignore_stops()
    if begin is not None:
        begin()
    with suppress(EOFError, OSError):
        while True:
            function, item = pipe.recv()
            try:
                pipe.send((function(item), None))
            except Exception as error:
                pipe.send((None, error))


def _lost(item: Any) -> RunError:
    return RunError(
        f"a process was lost while it worked on {item!r}"[:1000],
        "killed for want of memory? try fewer with --workers; otherwise one of these files makes the decoder crash",
    )
