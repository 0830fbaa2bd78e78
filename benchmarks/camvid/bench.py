"""Run everything that is missing, several trainings side by side, and write the page anew after each training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from benchmarks.camvid import costs, plan, records
from benchmarks.camvid.best import Best
from benchmarks.camvid.page import Page
from benchmarks.camvid.plan import Files, Row
from benchmarks.camvid.trainings import FIRST_ROWS, Trainings, miou
from benchmarks.jobs import Job
from benchmarks.machine import date_and_commit, describe_machine
from benchmarks.records import write
from benchmarks.runner import Runner
from benchmarks.training import Training, start
from rmrkd_cli.results.record import read_records

TEACHER_A, _MASKS_OF_B = "teacher a", "masks of b"


@dataclass
class Bench:
    """Attributes: `failed` names what ended with an error."""

    files: Files
    trainings: Trainings
    jobs: int
    output: Path
    say: Callable[[str], object]
    failed: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Run what is missing; return the names of what failed."""
        plan.make_roots(self.files)
        parts = (self._first_rows, self._equal_time, self._best, self._further_rows, self._four_times, self._others)
        for part in parts:
            part()
            self._write()
            if self.failed:
                break
        return self.failed

    def _first_rows(self) -> None:
        """Train what answers whether distillation helps; what stands first is preferred when a job can start."""
        trials = (*self._lr_trials(), *self._weight_trials(plan.METHODS))
        self._run([*self._teachers(), *trials, *self._evaluations(), *self._rows(FIRST_ROWS)])

    def _further_rows(self) -> None:
        """Train with fewer masks, and with twice the iterations."""
        trials = self._weight_trials(plan.LEARN_FROM_B)
        self._run([*self._teachers(), *trials, *self._rows((*plan.FEWER_MASKS, *self.trainings.twice_rows()))])

    def _four_times(self) -> None:
        self._run([*self._teachers(), *self._rows(self.trainings.four_times_rows())])

    def _others(self) -> None:
        rows = self.trainings.others
        self._run([*self._teachers(), *self._weight_trials(rows), *self._rows(rows)])

    def _teachers(self) -> Iterator[Job]:
        yield self._outputs("b")
        yield self._outputs("b-eighth")
        yield Job(TEACHER_A, partial(plan.teacher_training, self.files), preparation=True)
        yield self._outputs("c", TEACHER_A)
        yield Job(_MASKS_OF_B, partial(plan.label_arguments, self.files), (), True, self.files.labels_of_b)

    def _outputs(self, name: str, *after: str) -> Job:
        def keep() -> None:
            folder = self.files.outputs(name)
            index = json.loads((folder / "index.json").read_text())
            written = [path.stat().st_mtime for path in (folder / "maps").rglob("*.safetensors")]
            found = {"miou": index["miou"], "images": index["measured"], "seconds": max(written) - min(written)}
            write(self.files.results_of(f"outputs-{name}"), found)

        return Job(_outputs_of(name), partial(plan.cache_arguments, self.files, name), after, True, keep=keep)

    def _evaluations(self) -> Iterator[Job]:
        """Yield the commands that measure the teachers on the validation images."""
        views = ["--flip", "--scales", plan.SCALES]
        for name, file, options in (
            (plan.A, self.files.teacher_a, ["--dataset", "camvid"]),
            (plan.A_VIEWS, self.files.teacher_a, ["--dataset", "camvid", *views]),
            (plan.B, self.files.teacher_b, ["--preset", str(plan.PRESETS / "student-from-b.yaml")]),
        ):
            common = ["--data-root", str(self.files.data), "--device", "cpu"]
            arguments = ["eval", str(file), *options, *common, "--json", str(self._evaluation(name)), "--force"]
            keep = partial(self._keep_evaluation, name, arguments)
            is_kept = partial(self._has_evaluation, name, arguments)
            yield Job(name, partial(list, arguments), (TEACHER_A,), keep=keep, is_kept=is_kept)

    def _has_evaluation(self, name: str, arguments: list[str]) -> bool:
        return records.records_of(self.files).find(arguments, self.files.results_of(name)) is not None

    def _keep_evaluation(self, name: str, arguments: list[str]) -> None:
        [record] = read_records(self._evaluation(name))
        records.records_of(self.files).keep(record, arguments, self.files.results_of(name))

    def _evaluation(self, name: str) -> Path:
        return self.files.folder / f"{name}.json"

    def _lr_trials(self) -> Iterator[Job]:
        """Yield the trainings with each learning rate, with one seed."""
        for lr in plan.LEARNING_RATES:
            yield Job(_lr_trial(lr), partial(self.trainings.lr_trial, lr))

    def _weight_trials(self, rows: Sequence[Row]) -> Iterator[Job]:
        """Yield the trainings with each weight, with one seed."""
        for number in plan.WEIGHT_TRIALS:
            for row in rows:
                before = [_weight_trial(row, earlier) for earlier in range(number)]
                work = partial(self.trainings.weight_trial, row, number)
                yield Job(_weight_trial(row, number), work, (*_LR_TRIALS, *before, *_teacher_of(row)))

    def _rows(self, rows: Sequence[Row]) -> Iterator[Job]:
        for seed in self.trainings.seeds:
            for row in rows:
                yield self._row(row, seed)

    def _row(self, row: Row, seed: int) -> Job:
        like = self.trainings.tuned_like(row)
        trials = [_weight_trial(like, number) for number in plan.WEIGHT_TRIALS] if like is not None else []
        work = partial(self.trainings.of, row, seed)
        return Job(f"{row.name}, seed {seed}", work, (*_LR_TRIALS, *trials, *_teacher_of(row)))

    def _equal_time(self) -> None:
        """Measure the time of a step of each row, then train the best methods again."""
        if not self.trainings.costs():
            teachers = [job for job in self._teachers() if job.name != _MASKS_OF_B]
            self.failed += self._runner.prepare(teachers)
            if not self.failed:
                self.failed += costs.measure(self.files, (plan.BASELINE, *plan.METHODS), self.say, start)
        if not self.failed:
            self._run([*self._teachers(), *self._rows(self.trainings.equal_time_rows())])

    def _best(self) -> None:
        """Export, measure and draw the best students, which are trained again if their files are not here."""
        best, seed = Best(self.files, self.trainings), self.trainings.seeds[0]
        picture = self.output.with_suffix(".png")
        if best.results and picture.is_file():
            return
        rows = {name: replace(self._row(row, seed), preparation=True) for name, row in best.rows.items()}
        jobs = best.jobs({name: row.name for name, row in rows.items()}, TEACHER_A)
        self._run([*self._teachers(), *rows.values(), *jobs])
        if not self.failed:
            best.measure(picture)

    def _run(self, jobs: Sequence[Job]) -> None:
        """Run what is missing."""
        self.failed += self._runner.run(jobs)

    @property
    def _runner(self) -> Runner:
        output = self.files.folder / "output"
        return Runner(
            records.records_of(self.files), output, self.jobs, start, self.say,
            lambda training: self.trainings.result(training) is not None,
            partial(records.keep, self.files), self._show,
        )  # fmt: skip

    def _show(self, name: str, training: Training) -> None:
        """Show the result of a training that was kept."""
        self.say(f"{name}: mIoU {100 * miou(self.trainings.result(training)):.2f}")
        self._write()

    def _write(self) -> None:
        picture = self.output.with_suffix(".png").name
        page = Page(self.files, self.trainings, date_and_commit(), describe_machine("cpu"), picture)
        self.output.write_text(page.text(), encoding="utf-8")


def _outputs_of(name: str) -> str:
    return f"outputs of {name}"


def _lr_trial(lr: float) -> str:
    return f"trial of the baseline, lr {lr:g}"


def _weight_trial(row: Row, number: int) -> str:
    return f"trial {number + 1} of {row.name}"


def _teacher_of(row: Row) -> tuple[str, ...]:
    """Return the job that makes what a row learns from."""
    if row.method == "baseline":
        return ()
    masks = (_MASKS_OF_B,) if "predicted" in row.data else ()
    return (TEACHER_A if row.outputs is None else _outputs_of(row.outputs), *masks)


_LR_TRIALS = tuple(map(_lr_trial, plan.LEARNING_RATES))
