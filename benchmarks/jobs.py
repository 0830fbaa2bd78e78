"""Jobs that need the files of others, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from benchmarks.training import Training

Work = Training | list[str]  # a training, or the arguments of `rmrkd`


def arguments_of(work: Work) -> list[str]:
    """Return the arguments of `rmrkd`."""
    return work.arguments() if isinstance(work, Training) else work


def file_stem(name: str) -> str:
    """Return the name of a file for what is called `name`."""
    return name.replace(",", "").replace(" ", "-")


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        work: Called when the jobs named in `after` have succeeded, as it may need their results.
        after: Jobs that come before this one in a list.
        preparation: Whether it only makes files for other jobs, and runs only if one of them must run.
        folder: Removed before the command, which fills empty folders only.
        keep: Called after the command, to keep its result; not of trainings, whose results all are kept alike.
        is_kept: Returns whether that result is kept.
    """

    name: str
    work: Callable[[], Work]
    after: tuple[str, ...] = ()
    preparation: bool = False
    folder: Path | None = None
    keep: Callable[[], object] | None = None
    is_kept: Callable[[], bool] | None = None


def missing(jobs: Sequence[Job], is_done: Callable[[Job], bool]) -> list[Job]:
    """Return the jobs that are not done, and the preparations that they need.

    Args:
        is_done: Called for no preparation, and for a job only if those it needs are done, except preparations.
    """
    names = {job.name for job in jobs}
    preparations = {job.name for job in jobs if job.preparation}
    done: set[str] = set()
    for job in jobs:
        if not job.preparation and names & set(job.after) <= preparations | done and is_done(job):
            done.add(job.name)
    wanted = names - preparations - done
    for job in reversed(jobs):
        if job.name in wanted:
            wanted |= preparations & set(job.after)
    return [job for job in jobs if job.name in wanted]


def run_jobs(jobs: Sequence[Job], at_once: int, run: Callable[[Job], bool]) -> list[str]:
    """Run all jobs, of those that can start the first in the list; return the names of those that failed.

    What needs a failed job is not run. Names in `after` that are not in the list are taken as done.

    Args:
        at_once: How many run at the same time, each in a thread.
        run: Returns whether a job succeeded.
    """
    places = {job.name: place for place, job in enumerate(jobs)}
    sorter = TopologicalSorter({job.name: [name for name in job.after if name in places] for job in jobs})
    sorter.prepare()
    ready: list[int] = []
    failed: list[str] = []
    running: dict[Future[bool], Job] = {}
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            ready = sorted((*ready, *(places[name] for name in sorter.get_ready())))
            while ready and len(running) < at_once:
                job = jobs[ready.pop(0)]
                running[pool.submit(run, job)] = job
            if not running:
                return failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if future.result():
                    sorter.done(job.name)
                else:
                    failed.append(job.name)
