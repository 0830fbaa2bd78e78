"""The trainings of the benchmark, and what they gave: trials choose the settings of the rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.camvid import plan, records
from benchmarks.camvid.plan import Choice, Files, Row
from benchmarks.records import read
from benchmarks.training import Training
from rmrkd_cli.results.record import Record

_EQUAL_COST = 0.98  # a method with at least this share of the baseline's speed has had equal time already
FIRST_ROWS = (plan.BASELINE, *plan.METHODS, *plan.SMALL)
ROWS = (*FIRST_ROWS, *plan.FEWER_MASKS)


@dataclass(frozen=True)
class Trainings:
    """Attributes:
    iterations: Of every student at equal iterations.
    others: Rows of student 1 with other methods, which never become the best that is measured further.
    """

    files: Files
    seeds: tuple[int, ...]
    iterations: int
    others: tuple[Row, ...] = ()

    @property
    def methods(self) -> tuple[Row, ...]:
        return (*plan.METHODS, *self.others)

    @property
    def with_trials(self) -> tuple[Row, ...]:
        """The rows whose weights are chosen by trials of their own."""
        return (*self.methods, *plan.LEARN_FROM_B)

    def tuned_like(self, row: Row) -> Row | None:
        """Return the row whose trials choose the weights of a row; None for masks alone, which have none."""
        if row.method == plan.BASELINE.method:
            return None
        return {each.name: each for each in self.with_trials}[row.tuned_like or row.name]

    def of(self, row: Row, seed: int) -> Training:
        """Return the training of a row and seed, with the settings of its best trial."""
        folder = self.files.folder / "rows" / row.name
        return plan.training(self.files, row, seed, round(self.iterations * row.length), self._best_choice(row), folder)

    def lr_trial(self, lr: float) -> Training:
        return self._trial(plan.BASELINE, f"lr-{lr:g}", Choice(lr, {}))

    def weight_trial(self, row: Row, number: int) -> Training:
        """Return a trial with a method's automatic weights times a factor; the first, number 0, measures them."""
        factor = self._factor(row, number)
        weights = {} if factor == 1 else self._weights(row, factor)
        return self._trial(row, f"weight-{factor:g}", Choice(self._best_lr(), weights))

    def trial_results(self) -> list[tuple[str, float]]:
        """Return what each finished trial had, and its mIoU (0..1)."""
        trials = [(f"baseline, lr {lr:g}", self.lr_trial(lr)) for lr in plan.LEARNING_RATES]
        if self._has_trials():
            trials += [
                (f"{row.name}, weights x{self._factor(row, number):g}", self.weight_trial(row, number))
                for row in self.with_trials
                for number in plan.WEIGHT_TRIALS
            ]
        return [(name, miou(result)) for name, trial in trials if (result := self.result(trial)) is not None]

    def result(self, training: Training) -> Record | None:
        """Return the result of a training of one seed; None until it is finished."""
        return records.find(self.files, training)

    def results(self, rows: Sequence[Row] = ROWS) -> dict[str, list[Record]]:
        """Return the results of each row of which every seed is finished, by its name."""
        found = {}
        for row in rows if self._has_trials() else ():
            each_seed = [self.result(self.of(row, seed)) for seed in self.seeds]
            if all(each_seed):
                found[row.name] = [record for record in each_seed if record is not None]
        return found

    def best(self, count: int, methods: Sequence[Row] = plan.METHODS) -> list[Row]:
        """Return the finished methods, by default those of student 1, with the largest mean mIoU."""
        finished = self.results(methods)
        rows = [row for row in methods if row.name in finished]
        return sorted(rows, key=lambda row: -statistics.mean(map(miou, finished[row.name])))[:count]

    def equal_time_rows(self) -> list[Row]:
        """Return the best two methods with as many iterations as fit into the baseline's time.

        They follow from the seconds of a step, not from a clock, so the runs can be repeated.
        """
        lengths = self._lengths(self.best(2))
        return [plan.longer(row, round(length, 2)) for row, length in lengths if length < _EQUAL_COST]

    def no_slower_rows(self) -> list[Row]:
        """Return the methods whose training takes no longer than the baseline's."""
        return [row for row, length in self._lengths(plan.METHODS) if length >= _EQUAL_COST]

    def twice_rows(self) -> list[Row]:
        """Return the baseline and the methods with twice the iterations, the best first: had they stopped improving?"""
        return [plan.TWICE, *(plan.longer(row, plan.TWICE.length) for row in self.best(len(plan.METHODS)))]

    def four_times_rows(self) -> list[Row]:
        """Return the baseline and the method that is best with twice the iterations, with four times the iterations.

        The method is left out until all have been trained with twice the iterations.
        """
        twice = {plan.longer(row, plan.TWICE.length): row for row in plan.METHODS}
        best = self.best(len(twice), [*twice])
        first = best[:1] if len(best) == len(twice) else []
        return [plan.FOUR_TIMES, *(plan.longer(twice[row], plan.FOUR_TIMES.length) for row in first)]

    def equal_time_groups(self, *longer: Sequence[Row]) -> list[list[Row]]:
        """Return the rows that train as long as the baseline of the same length, which is the first of each group.

        Args:
            longer: Groups with more iterations, of which those that are no slower are taken.
        """
        no_slower = self.no_slower_rows()
        methods = [row.method for row in no_slower]
        groups = [[base, *(row for row in rows if row.method in methods)] for base, *rows in longer]
        return [[plan.BASELINE, *self.equal_time_rows(), *no_slower], *groups]

    def costs(self) -> dict[str, float]:
        """Return the seconds of a step by the name of the row; empty until they are measured."""
        found = read(self.files.costs)
        return found["seconds"] if found.get("settings") == [*self.files.settings] else {}

    def machine(self) -> dict[str, str]:
        """Return the description of the machine on which steps were timed; empty until then."""
        return dict(read(self.files.costs).get("machine", {}))

    def _lengths(self, methods: Sequence[Row]) -> list[tuple[Row, float]]:
        """Return each method and the share of its iterations that takes as long as the baseline; none without costs."""
        costs = self.costs()
        return [(row, costs[plan.BASELINE.name] / costs[row.name]) for row in methods if costs]

    def _trial(self, row: Row, name: str, choice: Choice) -> Training:
        folder = self.files.folder / records.TRIALS / row.name / name
        return plan.training(self.files, row, 0, self.iterations // plan.TRIAL_SHARE, choice, folder)

    def _has_trials(self) -> bool:
        return all(self.result(self.lr_trial(lr)) for lr in plan.LEARNING_RATES)

    def _factor(self, row: Row, number: int) -> float:
        """Return the factor of a trial, which from the third on follows from the first two."""
        if number < len(plan.WEIGHT_FACTORS):
            return plan.WEIGHT_FACTORS[number]
        first, second = (miou(self.result(self.weight_trial(row, before))) for before in (0, 1))
        return plan.SMALLER if second > first else plan.LARGER

    def _weights(self, row: Row, factor: float) -> dict[str, float]:
        record = self.result(self.weight_trial(row, 0))
        weights = (record or {}).get("training", {}).get("weights") or {}
        return {name: factor * value for name, value in weights.items()}

    def _best_lr(self) -> float:
        return max(plan.LEARNING_RATES, key=lambda lr: miou(self.result(self.lr_trial(lr))))

    def _best_choice(self, row: Row) -> Choice:
        """Return learning rate and weights of the best trial of this row, or of the row that it is tuned like."""
        lr = self._best_lr()
        tuned = self.tuned_like(row)
        if tuned is None:
            return Choice(lr, {})
        best = max(plan.WEIGHT_TRIALS, key=lambda number: miou(self.result(self.weight_trial(tuned, number))))
        return Choice(lr, self._weights(tuned, self._factor(tuned, best)))


def student_of(training: Training) -> Path:
    [run] = training.runs()
    return run.run_dir.student


def miou(record: Record | None) -> float:
    """Return mIoU in 0..1; -1 without a result."""
    value = record["metrics"]["miou"] if record else None
    return -1.0 if value is None else float(value)
