"""Many pairs looked at in several processes, remembering what was looked at before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rmrkd_cli.data.facts import Facts, look_many, start_looking
from rmrkd_cli.data.known import Known, stamp_of
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import RunError
from rmrkd_cli.signals import end_children

_CHUNK = 4  # pairs a task: a 2048x1024 pair takes 60 ms
MOST_WORKERS = 32


class Survey(NamedTuple):
    """Facts in the order of the samples, and how many pairs had to be read for them."""

    facts: list[Facts]
    read: int


def survey(
    samples: Sequence[Sample], known: Known, workers: int, on_progress: Callable[[int], None] | None = None
) -> Survey:
    """Looks at every pair that is not known.

    Args:
        on_progress: Called with the number of pairs done.

    Raises:
        RunError: When a process that reads them is lost.
    """
    facts = [known.get(sample) for sample in samples]
    todo = [index for index, found in enumerate(facts) if found is None]
    done = len(samples) - len(todo)
    if on_progress:
        on_progress(done)
    if todo:
        chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
        stamps = [[stamp_of(samples[index]) for index in chunk] for chunk in chunks]
        with _processes(min(workers, len(chunks))) as run:
            paths = [[(str(samples[i].image), str(samples[i].label)) for i in chunk] for chunk in chunks]
            for chunk, before, found in zip(chunks, stamps, run(look_many, paths), strict=True):
                for index, stamp, fact in zip(chunk, before, found, strict=True):
                    facts[index] = fact
                    known.put(samples[index], stamp, fact)
                done += len(chunk)
                if on_progress:
                    on_progress(done)
    return Survey([fact for fact in facts if fact is not None], len(todo))


def default_workers() -> int:
    """A process for each CPU that this one may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST_WORKERS)


@contextmanager
def _processes(count: int) -> Iterator[Callable[[Any, Any], Iterator[Any]]]:
    """Started anew, not forked: the bar has a thread. Anything that ends the command ends them at once."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=start_looking)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise RunError(
            "a process that reads images is gone", "killed for want of memory? try fewer with --workers"
        ) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        end_children()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
