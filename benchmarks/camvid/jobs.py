"""Jobs that need the files of others, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter

from benchmarks.methods.runs import Training

Work = Training | list[str]  # a training, or the arguments of `rmrkd`


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        work: Called when the jobs named in `after` have succeeded, as it may need their results.
        once: Whether it is not run again after it has succeeded; trainings never are.
    """

    name: str
    work: Callable[[], Work]
    after: tuple[str, ...] = ()
    once: bool = False


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
    ready, failed = [], []
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
