"""Run everything that is missing, several trainings side by side, and write the page anew after each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.camvid import plan
from benchmarks.camvid.page import Page
from benchmarks.camvid.plan import Choice, Files, Row
from benchmarks.machine import date_and_commit, describe_machine
from benchmarks.methods.runs import Training, start
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.results.record import Record, read_record

PARTS = ("teachers", "trials", "methods", "labels", "small")
Job = tuple[str, Training | list[str]]  # a name, and a training or the arguments of `rmrkd`


@dataclass
class Bench:
    """Attributes: `iterations` are those of students; `failed` names what ended with an error."""

    files: Files
    seeds: tuple[int, ...]
    iterations: int
    teacher_iterations: int
    jobs: int
    output: Path
    say: Callable[[str], object]
    failed: list[str] = field(default_factory=list)

    def run(self, parts: Sequence[str] | None) -> list[str]:
        """Run these parts, or all; return the names of what failed."""
        for part in parts or PARTS:
            getattr(self, f"_{part}")()
            if self.failed:
                break
            self._write()
        return self.failed

    def _teachers(self) -> None:
        plan.make_eighth(self.files)
        self._run([(f"outputs of {name}", plan.cache_arguments(self.files, name)) for name in ("b", "b-eighth")])
        threads = os.environ.pop("OMP_NUM_THREADS")  # it runs alone
        self._run([("teacher A", plan.teacher_training(self.files, self.teacher_iterations))])
        os.environ["OMP_NUM_THREADS"] = threads
        self._run([(f"outputs of {name}", plan.cache_arguments(self.files, name)) for name in ("a", "c")])
        self._run(self._evaluations())

    def _evaluations(self) -> Iterable[Job]:
        """Yield the commands that measure the teachers on the validation images."""
        for name, file, options in (
            ("a", self.files.teacher_a, []),
            ("a-views", self.files.teacher_a, ["--flip", "--scales", plan.SCALES]),
            ("b", self.files.teacher_b, ["--preset", str(plan.PRESETS / "student-from-b.yaml")]),
        ):
            output = self.files.folder / f"{name}.json"
            if not output.is_file():
                common = ["--data-root", str(self.files.data), "--device", "cpu", "--json", str(output)]
                dataset = [] if "--preset" in options else ["--dataset", "camvid"]
                yield f"mIoU of {name}", ["eval", str(file), *dataset, *options, *common]

    def _trials(self) -> None:
        """Train with each learning rate and each weight for a third of the iterations, with one seed."""
        self._run([(f"trial of the baseline, lr {lr:g}", self._lr_trial(lr)) for lr in plan.LEARNING_RATES])
        if self.failed:
            return
        lr = self._best_lr()
        for factors in (plan.WEIGHT_FACTORS[:1], plan.WEIGHT_FACTORS[1:]):  # the first measures the automatic weights
            self._run(
                (f"trial of {row.name}, weights x{factor:g}", self._weight_trial(row, factor, lr))
                for row in plan.METHODS
                for factor in factors
            )
            if self.failed:
                return

    def _methods(self) -> None:
        self._rows([plan.BASELINE, *plan.METHODS])

    def _labels(self) -> None:
        self._rows(plan.WITHOUT_LABELS)

    def _small(self) -> None:
        self._rows(plan.SMALL)

    def _rows(self, rows: Sequence[Row]) -> None:
        self._run([(f"{row.name}, seed {seed}", self._training(row, seed)) for seed in self.seeds for row in rows])

    def _training(self, row: Row, seed: int) -> Training:
        iterations = round(self.iterations * row.length)
        folder = self.files.folder / f"iterations-{self.iterations}" / row.name
        return plan.training(self.files, row, seed, iterations, self._choice(row), folder)

    def _lr_trial(self, lr: float) -> Training:
        return self._trial(plan.BASELINE, f"lr-{lr:g}", Choice(lr, {}))

    def _trial(self, row: Row, name: str, choice: Choice) -> Training:
        folder = self.files.folder / f"trials-{self.iterations}" / row.name / name
        return plan.training(self.files, row, 0, self.iterations // plan.TRIAL_SHARE, choice, folder)

    def _weight_trial(self, row: Row, factor: float, lr: float) -> Training:
        """Return the trial with a method's automatic weights times a factor; factor 1 measures them."""
        weights = {} if factor == 1 else self._weights(row, factor, lr)
        return self._trial(row, f"weight-{factor:g}", Choice(lr, weights))

    def _weights(self, row: Row, factor: float, lr: float) -> dict[str, float]:
        record = result_of(self._weight_trial(row, 1.0, lr))
        weights = (record or {}).get("training", {}).get("weights") or {}
        return {name: factor * value for name, value in weights.items()}

    def _best_lr(self) -> float:
        return max(plan.LEARNING_RATES, key=lambda lr: miou(result_of(self._lr_trial(lr))))

    def _choice(self, row: Row) -> Choice:
        """Return learning rate and weights of the best trial of this row, or of the row that it is tuned like."""
        lr = self._best_lr()
        tuned = {each.name: each for each in (plan.BASELINE, *plan.METHODS)}[row.tuned_like or row.name]
        if tuned.method == "baseline" or row.method == "baseline":
            return Choice(lr, {})
        best = max(plan.WEIGHT_FACTORS, key=lambda factor: miou(result_of(self._weight_trial(tuned, factor, lr))))
        return Choice(lr, self._weights(tuned, best, lr))

    def _run(self, jobs: Iterable[Job]) -> None:
        """Run what is not finished, `jobs` at a time."""
        if self.jobs == 1:
            self.failed += filter(None, map(self._run_one, jobs))
            return
        with ThreadPoolExecutor(self.jobs) as pool:
            self.failed += filter(None, pool.map(self._run_one, jobs))

    def _run_one(self, job: Job) -> str | None:
        name, what = job
        try:
            if isinstance(what, Training) and what.finished:
                return None
        except RmrkdError as error:
            self.say(f"{name}: {error.message}")
            return name
        self.say(name)
        arguments = what.arguments() if isinstance(what, Training) else what
        output = self.files.folder / "output" / f"{name.replace(', ', '-').replace(' ', '-')}.txt"
        status = start(arguments, output)
        if status:
            self.say(f"{name}: ended with {status}, see {output}")
            return name
        if isinstance(what, Training):
            self.say(f"{name}: mIoU {100 * miou(result_of(what)):.2f}")
        return None

    def _write(self) -> None:
        rows = (plan.BASELINE, *plan.METHODS, *plan.WITHOUT_LABELS, *plan.SMALL)
        results = {}
        for row in rows if all(result_of(self._lr_trial(lr)) for lr in plan.LEARNING_RATES) else ():
            found = [result_of(self._training(row, seed)) for seed in self.seeds]
            if all(found):
                results[row.name] = [record for record in found if record is not None]
        trials = self._trial_results()
        page = Page(self.files, rows, results, trials, date_and_commit(), describe_machine("cpu"))
        self.output.write_text(page.text(), encoding="utf-8")

    def _trial_results(self) -> list[tuple[str, float]]:
        """Return what each finished trial had, and its mIoU (0..1)."""
        lr = self._best_lr()
        trials = [(f"baseline, lr {rate:g}", self._lr_trial(rate)) for rate in plan.LEARNING_RATES]
        trials += [
            (f"{row.name}, weights x{factor:g}", self._weight_trial(row, factor, lr))
            for row in plan.METHODS
            for factor in plan.WEIGHT_FACTORS
        ]
        return [(name, miou(result)) for name, trial in trials if (result := result_of(trial)) is not None]


def result_of(training: Training) -> Record | None:
    """Return the result of a training of one seed; None until it is finished."""
    [run] = training.runs()
    return read_record(run.run_dir.result) if run.run_dir.finished else None


def miou(record: Record | None) -> float:
    """Return mIoU in 0..1; -1 without a result."""
    value = record["metrics"]["miou"] if record else None
    return -1.0 if value is None else float(value)
