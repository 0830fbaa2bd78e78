"""All measures of the methods; the report is written anew after each training."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.jobs import Job
from benchmarks.methods import losses, steps, tuning
from benchmarks.methods.page import Page, Tuned
from benchmarks.methods.runs import (
    Conditions,
    Outcome,
    at_equal_iterations,
    at_equal_time,
    outcome,
    trains_teacher,
)
from benchmarks.records import Records, read, write
from benchmarks.result import Setting
from benchmarks.runner import Runner
from benchmarks.store import Store
from benchmarks.training import BASELINE, TEACHER, Start, Training
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import load_method
from rmrkd_cli.presets.schema import OWN_METHOD
from rmrkd_cli.results.record import Record


@dataclass(frozen=True)
class Bench:
    """Attributes:
    results: Folder of the records; what is there is not run again.
    taken: Date and commit.
    command: The command line.
    trials: Of each method, which is trained again with the weights that they choose; 0 for automatic weights alone.
    jobs: Trainings at the same time.
    """

    conditions: Conditions
    setting: Setting
    store: Store
    results: Path
    output: Path
    command: str
    taken: str
    trials: int = 0
    jobs: int = 1

    def run(self, start: Start) -> list[str]:
        """Measure what is missing, and continue after failures; return the names of what failed."""
        steps.measure(self.conditions, self.setting, self.store, self.taken)
        output = self.conditions.folder / "output"
        runner = Runner(
            self._records, output, self.jobs, start, self.setting.log,
            lambda training: self._find(training) is not None, self._keep, lambda *_: self._write(),
        )  # fmt: skip
        failed = []
        if self.trials:
            failed += runner.run([*self._first(), *self._searches()])
            chosen = {name: self._chosen(name) for name in self._searched()}
            steps.measure(self.conditions, self.setting, self.store, self.taken, chosen)
        failed += runner.run([*self._first(), *self._tuned_trainings(), *self._trainings(self.conditions.methods)])
        failed += losses.measure(self._kinds(), self.setting, self.store, self.taken)
        self._write()
        return list(dict.fromkeys(failed))

    def costs(self) -> dict[str, float]:
        """Of a step, relative to the baseline's, of each method that was measured."""
        found = {name: self.store.results.get(steps.key(name)) for name in self.conditions.methods}
        return {name: statistics.median(one.rows[0].ratios) for name, one in found.items() if one is not None}

    @property
    def _records(self) -> Records:
        return Records({self.conditions.folder: "WORK"})

    def _first(self) -> Iterator[Job]:
        """Yield the trainings that no trial precedes."""
        for seed in self.conditions.seeds:
            if trains_teacher(self.conditions):
                work = partial(at_equal_iterations, self.conditions, TEACHER, seed)
                yield Job(_name(TEACHER, seed), work, preparation=True)
        for seed in self.conditions.seeds:
            for time in (False, True):
                yield self._job(BASELINE, seed, time=time)

    def _searches(self) -> Iterator[Job]:
        """Yield the searches for weights and options of the methods."""
        first = _name(TEACHER, self.conditions.seeds[0])
        for name in self.conditions.methods:
            work = partial(tuning.arguments, self.conditions, name, self.trials)
            keep, is_kept = partial(self._keep_search, name), partial(self._is_searched, name)
            yield Job(_search(name), work, (first,), keep=keep, is_kept=is_kept)

    def _tuned_trainings(self) -> Iterator[Job]:
        return self._trainings(self._searched(), tuned=True) if self.trials else iter(())

    def _searched(self) -> list[str]:
        """Return the methods of which the search has ended."""
        return [name for name in self.conditions.methods if self._is_searched(name)]

    def _trainings(self, methods: Sequence[str], *, tuned: bool = False) -> Iterator[Job]:
        for time in (False, True):
            for name in methods:
                for seed in self.conditions.seeds:
                    yield self._job(name, seed, time=time, tuned=tuned)

    def _job(self, name: str, seed: int, *, time: bool, tuned: bool = False) -> Job:
        after = [] if name == BASELINE and not time else [_name(TEACHER, seed)]
        after += [_search(name)] if tuned else []
        iterations = self._iterations(name, tuned=tuned) if time else 0
        what = f"equal time, {iterations} iterations" if time else "equal iterations"
        work = partial(self._training, name, seed, time=time, tuned=tuned)
        return Job(_name(name, seed, f"{what}, tuned" if tuned else what), work, tuple(after))

    def _training(self, name: str, seed: int, *, time: bool, tuned: bool) -> Training:
        chosen = self._chosen(name) if tuned else []
        if time:
            return at_equal_time(self.conditions, name, seed, self._iterations(name, tuned=tuned), chosen)
        return at_equal_iterations(self.conditions, name, seed, chosen)

    def _iterations(self, name: str, *, tuned: bool) -> int:
        """Return those at equal time, by the measured seconds of a step."""
        found = steps.iterations(steps.tuned(name) if tuned else name, self.store, self.conditions.time)
        assert found is not None, name  # `run` measures the steps first
        return found

    def _chosen(self, name: str) -> list[str]:
        """Return the settings that a search chose."""
        settings: list[str] = read(self._search_file(name))["settings"]
        return settings

    def _keep_search(self, name: str) -> None:
        work = tuning.arguments(self.conditions, name, self.trials)
        chosen = tuning.settings(self.conditions, name)
        write(self._search_file(name), {"command": self._records.command_of(work), "settings": chosen})

    def _search_file(self, name: str) -> Path:
        return self.results / "tuning" / f"{name}.json"

    def _is_searched(self, name: str) -> bool:
        work = tuning.arguments(self.conditions, name, self.trials)
        return read(self._search_file(name)).get("command") == self._records.command_of(work)

    def _keep(self, training: Training) -> str | None:
        return self._records.keep_training(training, self._record_file(training), per_image=False)

    def _find(self, training: Training) -> Record | None:
        return self._records.find(training, self._record_file(training))

    def _record_file(self, training: Training) -> Path:
        return self.results / training.folder.name / f"{training.name}-seed-{training.seeds[0]}.json"

    def _outcomes(self, *, time: bool, tuned: bool = False) -> dict[str, Outcome]:
        """Return the outcome of each role and method of which all seeds are finished, by its name."""
        found = {}
        for name in (*([] if time else [TEACHER]), BASELINE, *self.conditions.methods):
            chosen = tuned and name not in (TEACHER, BASELINE)
            if chosen and not (self._is_searched(name) and steps.key(steps.tuned(name)) in self.store.results):
                continue
            trainings = [self._training(name, seed, time=time, tuned=chosen) for seed in self.conditions.seeds]
            records = [record for training in trainings if (record := self._find(training)) is not None]
            if len(records) == len(trainings):
                found[name] = outcome(trainings[0], records)
        return found

    def _write(self) -> None:
        conditions = self.conditions
        page = Page(
            load_preset(conditions.preset), self.command, self.taken, conditions.seeds, conditions.time, self.store,
            self._outcomes(time=False), self._outcomes(time=True), self.setting.quick,
            self._tuned() if self.trials else None,
        )  # fmt: skip
        self.output.write_text(page.text(), encoding="utf-8")

    def _tuned(self) -> Tuned:
        conditions = self.conditions
        chosen = {name: tuning.searched(conditions, name, self._chosen(name)) for name in self._searched()}
        return Tuned(
            self.trials, tuning.iterations(conditions), chosen,
            self._outcomes(time=False, tuned=True), self._outcomes(time=True, tuned=True),
        )  # fmt: skip

    def _kinds(self) -> list[str]:
        """Types of the losses of all chosen methods."""
        own = load_preset(self.conditions.preset).losses
        of_methods = (own if name == OWN_METHOD else load_method(name).losses for name in self.conditions.methods)
        return sorted({loss.type for each in of_methods for loss in each.values()})


def _name(name: str, seed: int, what: str = "equal iterations") -> str:
    return f"{name}, {what}, seed {seed}"


def _search(name: str) -> str:
    return f"{name}, tuning"
