"""Jobs run in their order, only where a result is missing, and commands that ended are not run again."""

from __future__ import annotations

from pathlib import Path

from benchmarks.jobs import Job, missing
from benchmarks.records import Records
from benchmarks.runner import Runner


def test_preparations_run_for_missing_results_only() -> None:
    def job(name: str, *after: str, preparation: bool = False) -> Job:
        return Job(name, list, after, preparation)

    jobs = [
        job("teacher", preparation=True), job("outputs", "teacher", preparation=True), job("masks", preparation=True),
        job("trial", "outputs"), job("row", "trial", "outputs"), job("measured", "teacher"), job("last", "elsewhere"),
    ]  # fmt: skip

    def left(*done: str) -> list[str]:
        return [job.name for job in missing(jobs, lambda job: job.name in done)]

    assert left() == ["teacher", "outputs", "trial", "row", "measured", "last"]
    assert left("trial", "measured", "last") == ["teacher", "outputs", "row"]
    assert left("row", "measured", "last") == ["teacher", "outputs", "trial", "row"]  # a row follows from its trials
    assert left("trial", "row", "last") == ["teacher", "measured"]
    assert left("trial", "row", "measured", "last") == []


def test_a_preparation_runs_again_only_if_it_did_not_end(tmp_path: Path) -> None:
    started: list[list[str]] = []
    status = 1

    def start(arguments: list[str], output: Path) -> int:
        started.append(arguments)
        return status

    def prepare(*work: str) -> list[str]:
        job = Job("outputs", lambda: list(work), preparation=True)
        return Runner(Records({}), tmp_path, 1, start, str, lambda _: False, str, print).prepare([job])

    assert prepare("cache") == ["outputs"]
    status = 0
    assert prepare("cache") == prepare("cache") == []
    assert len(started) == 2
    status = 1
    assert prepare("cache", "--flip") == ["outputs"]  # another command, which fails: what it began is no result
    status = 0
    assert prepare("cache") == []
    assert len(started) == 4
