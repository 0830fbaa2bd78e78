"""All measures of the methods one after the other; the report is written anew after each."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.methods import losses, steps, tuning
from benchmarks.methods.page import Page
from benchmarks.methods.runs import (
    BASELINE,
    TEACHER,
    Conditions,
    Outcome,
    Start,
    Training,
    at_equal_iterations,
    at_equal_time,
)
from benchmarks.methods.runs import outcome as outcome_of
from benchmarks.result import Setting
from benchmarks.store import Store
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import load_method
from rmrkd_cli.presets.schema import OWN_METHOD


@dataclass
class Bench:
    """Attributes: `taken` is date and commit; `command` the command line; `trials` of each method, 0 without tuning."""

    conditions: Conditions
    setting: Setting
    store: Store
    output: Path
    command: str
    taken: str
    trials: int = 0
    equal_iterations: dict[str, Outcome] = field(default_factory=dict)
    equal_time: dict[str, Outcome] = field(default_factory=dict)

    def run(self, start: Start) -> list[str]:
        """Measure what is missing, and continue after failures; return the names of what failed."""
        steps.measure(self.conditions, self.setting, self.store, self.taken)
        first = [one for one in at_equal_iterations(self.conditions) if one.name in (TEACHER, BASELINE)]
        failed = [
            name for one in first for name in self._train("equal iterations", [one], self.equal_iterations, start)
        ]
        if self.trials and failed:
            return failed  # the trials need the teacher
        failed += self._tune(start) if self.trials else []
        for training in at_equal_iterations(self.conditions)[len(first) :]:
            failed += self._train("equal iterations", [training], self.equal_iterations, start)
        for name in (BASELINE, *self.conditions.methods):
            count = steps.iterations(name, self.store, self.conditions.time)
            if count is not None:
                trainings = at_equal_time(self.conditions, name, count)
                failed += self._train(f"equal time, {count} iterations", trainings, self.equal_time, start)
        failed += losses.measure(self._kinds(), self.setting, self.store, self.taken)
        self._write()
        return failed

    def costs(self) -> dict[str, float]:
        """Of a step, relative to the baseline's, of each method that was measured."""
        found = {name: self.store.results.get(steps.key(name)) for name in self.conditions.methods}
        return {name: statistics.median(one.rows[0].ratios) for name, one in found.items() if one is not None}

    def _tune(self, start: Start) -> list[str]:
        """Search weights and options of each method, and use them; return the names of what failed."""
        tuned, failed = {}, []
        for name in self.conditions.methods:
            if not tuning.is_done(self.conditions, name, self.trials):
                self.setting.log(f"{name}, tuning")
                output = self.conditions.folder / "output" / f"{name}-tuning.txt"
                if status := start(tuning.arguments(self.conditions, name, self.trials), output):
                    self.setting.log(f"  ended with {status}, see {output}")
                    failed.append(f"{name}, tuning")
                    continue
                tuning.mark_done(self.conditions, name, self.trials)
            tuned[name] = tuning.settings(self.conditions, name)
        self.conditions = replace(self.conditions, methods=tuple(tuned), tuned=tuned)
        return failed

    def _train(self, what: str, trainings: list[Training], into: dict[str, Outcome], start: Start) -> list[str]:
        for training in trainings:
            name = f"{training.name}, {what}, seed {', '.join(map(str, training.seeds))}"
            output = self.conditions.folder / "output" / f"{name.replace(', ', '-').replace(' ', '-')}.txt"
            try:
                if training.finished:
                    continue
            except RmrkdError as error:
                self.setting.log(f"{name}: {error.message}")
                return [name]
            self.setting.log(name)
            status = start(training.arguments(), output)
            if status:
                self.setting.log(f"  ended with {status}, see {output}")
                return [name]
        found = outcome_of(trainings)
        if found is not None:
            into[found.name] = found
        self._write()
        return []

    def _write(self) -> None:
        conditions = self.conditions
        page = Page(
            load_preset(conditions.preset), self.command, self.taken, conditions.seeds, conditions.time, self.store,
            self.equal_iterations, self.equal_time, self.setting.quick,
            (self.trials, tuning.iterations(conditions)) if self.trials else None,
        )  # fmt: skip
        self.output.write_text(page.text(), encoding="utf-8")

    def _kinds(self) -> list[str]:
        """Types of the losses of all chosen methods."""
        own = load_preset(self.conditions.preset).losses
        of_methods = (own if name == OWN_METHOD else load_method(name).losses for name in self.conditions.methods)
        return sorted({loss.type for each in of_methods for loss in each.values()})
