"""Run the jobs of a benchmark whose results are not kept yet."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import Job, arguments_of, file_stem, missing, run_jobs
from benchmarks.methods.runs import Start, Training
from benchmarks.records import Records
from rmrkd_cli.errors import RmrkdError


@dataclass(frozen=True)
class Runner:
    """Attributes:
    records: Have the commands of the jobs.
    output: Folder of what the commands print, and of marks of those that have ended.
    at_once: Jobs that run at the same time.
    start: Runs `rmrkd` with some arguments.
    is_done: Whether the result of a job is kept.
    keep: Keeps the result of a job.
    """

    records: Records
    output: Path
    at_once: int
    start: Start
    say: Callable[[str], object]
    is_done: Callable[[Job], bool]
    keep: Callable[[Job], object]

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run what is missing; return the names of what failed."""
        try:
            return run_jobs(missing(jobs, self.is_done), self.at_once, self._run_one)
        except RmrkdError as error:
            self.say(error.message)
            return ["reading the results"]

    def prepare(self, jobs: Sequence[Job]) -> list[str]:
        """Run all preparations that have not ended, for what is no job; return the names of what failed."""
        return run_jobs(jobs, self.at_once, self._run_one)

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
        if not (finished and self.is_done(job)):
            self.keep(job)
        return True


def _is_marked(mark: Path, command: str) -> bool:
    """Return whether this command has ended and left its mark."""
    return mark.is_file() and mark.read_text(encoding="utf-8") == command
