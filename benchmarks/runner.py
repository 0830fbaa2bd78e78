"""Run the jobs of a benchmark whose results are not kept yet."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.jobs import Job, Work, arguments_of, file_stem, missing, run_jobs
from benchmarks.records import Records
from benchmarks.training import Start, Training
from rmrkd_cli.errors import RmrkdError


@dataclass(frozen=True)
class Runner:
    """Runs jobs side by side, and keeps the result of each.

    Attributes:
        records: Gives the command of a job.
        output: Folder of the text that commands print, and of marks of commands that have ended.
        at_once: Number of jobs that run at the same time.
        start: Runs `rmrkd` with some arguments.
        is_kept: Returns whether the result of a training is kept.
        keep: Keeps the result of a training, and returns the SHA-256 of the student that the same command gave before,
            if it was another; called by one thread at a time.
        kept: Called with the name of a training whose result was kept.
    """

    records: Records
    output: Path
    at_once: int
    start: Start
    say: Callable[[str], object]
    is_kept: Callable[[Training], bool]
    keep: Callable[[Training], str | None]
    kept: Callable[[str, Training], object]
    _keeping: threading.Lock = field(default_factory=threading.Lock)

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run the jobs without a result and the preparations that they need; return the names of those that failed."""
        return self._run(lambda: missing(jobs, self._is_done))

    def prepare(self, jobs: Sequence[Job]) -> list[str]:
        """Run all preparations that have not ended; return the names of those that failed."""
        return self._run(lambda: jobs)

    def _run(self, chosen: Callable[[], Sequence[Job]]) -> list[str]:
        try:
            return run_jobs(chosen(), self.at_once, self._run_one)
        except RmrkdError as error:
            self.say(error.message)
            return ["reading the results"]

    def _run_one(self, job: Job) -> bool:
        """Run a job, and return whether it succeeded."""
        work = job.work()
        output = self.output / f"{file_stem(job.name)}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        done = output.with_suffix(".done")
        try:
            command = self.records.command_of(work)
            marked = job.preparation and _is_marked(done, command)
            finished = work.finished if isinstance(work, Training) else marked
        except RmrkdError as error:
            self.say(f"{job.name}: {error.message}")
            return False
        if not finished:
            self.say(job.name)
            done.unlink(missing_ok=True)
            if job.folder is not None:
                shutil.rmtree(job.folder, ignore_errors=True)
            if status := self.start(arguments_of(work), output):
                self.say(f"{job.name}: ended with {status}, see {output}")
                return False
            done.write_text(command, encoding="utf-8")
        if not (finished and self._is_done(job)):
            with self._keeping:
                self._keep(job, work)
        return True

    def _is_done(self, job: Job) -> bool:
        work = job.work()
        if isinstance(work, Training):
            return self.is_kept(work)
        return job.is_kept is not None and job.is_kept()

    def _keep(self, job: Job, work: Work) -> None:
        if isinstance(work, Training):
            if other := self.keep(work):
                self.say(f"{job.name}: the file differs from the one trained before, whose SHA-256 was {other}")
            self.kept(job.name, work)
        elif job.keep is not None:
            job.keep()


def _is_marked(mark: Path, command: str) -> bool:
    """Return whether this command has ended and left its mark."""
    return mark.is_file() and mark.read_text(encoding="utf-8") == command
