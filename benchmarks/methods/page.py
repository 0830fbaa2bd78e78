"""Write METHODS.md: the mIoU and the cost of each method."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.methods import losses, steps
from benchmarks.methods.costs import format_ratio
from benchmarks.methods.runs import Outcome
from benchmarks.report import amount, ratio_range, table
from benchmarks.result import Row
from benchmarks.store import Store
from benchmarks.training import BASELINE, TEACHER
from rmrkd_cli.presets.schema import Preset

_WIDTH = 116
_UNKNOWN = "–"
Cells = list[str]


@dataclass(frozen=True)
class Tuned:
    """Methods with the weights and options that trials chose.

    Attributes:
        trials, iterations: Of each method, and of a trial.
        chosen: What they chose, `LOSS.OPTION=VALUE` by method.
        equal_iterations, equal_time: Outcomes by role or method.
    """

    trials: int
    iterations: int
    chosen: Mapping[str, Sequence[str]]
    equal_iterations: Mapping[str, Outcome]
    equal_time: Mapping[str, Outcome]


@dataclass(frozen=True)
class Page:
    """The contents of the page; measurements that are missing are left out.

    Attributes:
        command: The command that writes the page.
        taken: Date and commit.
        equal_iterations, equal_time: Outcomes by role or method, with automatic weights.
        tuned: The same with chosen weights; None without trials.
    """

    preset: Preset
    command: str
    taken: str
    seeds: Sequence[int]
    time: float
    store: Store
    equal_iterations: Mapping[str, Outcome]
    equal_time: Mapping[str, Outcome]
    quick: bool = False
    tuned: Tuned | None = None

    def text(self) -> str:
        parts = ["# Methods under the same conditions", *self._introduction()]
        for title, text, rows in self._tables():
            if len(rows) > 1:
                parts += [f"## {title}", _wrap(text), table(rows[0], rows[1:])]
        return "\n\n".join(parts) + "\n"

    def _introduction(self) -> Iterator[str]:
        yield f"Written by `{self.command}`, {self.taken}."
        if self.quick:
            yield "**Tiny sizes: this only shows that everything runs.**"
        yield "\n".join(f"- {name}: {value}" for name, value in self.store.machine.items())
        seeds = ", ".join(map(str, self.seeds))
        yield _wrap(
            f"Preset `{self.preset.name}` ({self.preset.title}), seeds {seeds}. Students of a seed start from the "
            "same weights and see the same images in the same order; teacher, schedule and evaluation are the same, "
            "the losses differ. **How to read it**: networks this small, trained this short and from random weights, "
            f"{len(self.seeds)} seed(s): the tables show what each method does in this setting and what it costs. "
            "Differences no larger than the spread over seeds show nothing. They say nothing about Cityscapes or any "
            "other data."
        )
        yield _wrap(
            "Automatic weights are those of the recipe, or of the preset for `rmrkd`. Losses without one have the "
            "gradient norm of cross-entropy."
        )
        if self.tuned:
            yield _wrap(
                f"With tuned weights, `rmrkd tune` chose weights and options in {self.tuned.trials} trials of "
                f"{self.tuned.iterations} iterations. The trials had seed {self.preset.seed} and the teacher of seed "
                f"{self.seeds[0]}, and were chosen by mIoU on the validation images of the tables, so the tuned "
                "figures are too good, and those of the first seed most. The baseline has no weight to choose. All "
                "methods have equally many trials, however many settings these search."
            )

    def _tables(self) -> Iterator[tuple[str, str, list[Cells]]]:
        teacher = self.equal_iterations.get(TEACHER)
        taught = f" The teachers of the seeds have {_list(teacher.miou)}." if teacher else ""
        iterations, time = _describe_iterations(self.equal_iterations) + taught, self._describe_time()
        if self.tuned:
            text = _describe_iterations(self.tuned.equal_iterations) + taught
            yield "Equal iterations, tuned", text, self._miou_table(self.tuned.equal_iterations, tuned=True)
            yield "Equal time, tuned", time, self._miou_table(self.tuned.equal_time, with_iterations=True)
            iterations, time = ("With automatic weights. All else is as in the first tables.",) * 2
        yield "Equal iterations", iterations, self._miou_table(self.equal_iterations)
        yield "Equal time", time, self._miou_table(self.equal_time, with_iterations=True)
        yield "Seconds of a step", self._describe_steps(), self._steps()
        if self.tuned:
            text = "What the trials chose. All else is the method's default."
            yield "Tuned settings", text, _chosen_settings(self.tuned.chosen)
        text = "Lowest and highest over the seeds, where a weight is computed at the start of a run."
        yield "Automatic weights", text, self._weights()
        yield "Losses against the plain form of their formulas", self._describe_losses(), self._losses()

    def _describe_time(self) -> str:
        return (
            f"As many iterations as fit into {self.time:g} s of computing by the seconds of a step below, with the "
            "schedule of that length and the teachers of the first table. The budget is computed, not waited for, so "
            "that what else the machine does decides nothing."
        )

    def _miou_table(
        self, outcomes: Mapping[str, Outcome], *, with_iterations: bool = False, tuned: bool = False
    ) -> list[Cells]:
        base = outcomes.get(BASELINE)
        ranked = sorted(
            (one for name, one in outcomes.items() if name != TEACHER), key=lambda one: -_mean_value(one.miou)
        )
        cost = ["iterations"] if with_iterations else ["s/step", "ratio", "memory"]
        rows = [["method", "mean", "sd", "- baseline", "by seed", *cost, "mIoU by seed"]]
        for one in ranked:
            differences = _differences(one, base) if base is not None and one is not base else []
            difference = (
                [f"{_mean_value(differences):+.2f}", _list(differences, "+.2f")] if differences else [_UNKNOWN] * 2
            )
            cells = [f"`{one.name}`", _format_mean(one.miou), _spread(one.miou), *difference]
            rows.append(
                [*cells, *([str(one.iterations)] if with_iterations else self._cost(one, tuned)), _list(one.miou)]
            )
        return rows

    def _cost(self, one: Outcome, tuned: bool) -> Cells:
        name = steps.tuned(one.name) if tuned and one.name != BASELINE else one.name
        seconds, row = steps.seconds(name, self.store), self._row(steps.key(name))
        memory = amount(one.peak_memory, "B") if one.peak_memory is not None else _UNKNOWN
        if seconds is None or row is None:
            return [_UNKNOWN, _UNKNOWN, memory]
        return [f"{seconds:.3f}", format_ratio(statistics.median(row.ratios)), memory]

    def _describe_steps(self) -> str:
        row = self._row(steps.key(BASELINE))
        base = f", {amount(statistics.median(row.ours), 's')}" if row is not None else ""
        return (
            "A whole training step on random images, with the preset's networks, batch and crop, beside the "
            f"baseline's{base}: all methods take their turn in one process before the next round; the ratio is the "
            f"median over {len(row.ours) if row is not None else 0} round(s), of a method's time to the baseline's in "
            "the same round. `rmrkd methods` shows these ratios. The last column divides them by that of `kd`. Tuned "
            "settings cost more or less where they mask another share of the maps."
        )

    def _steps(self) -> list[Cells]:
        names = [one.removeprefix(steps.key("")) for one in self.store.results if one.startswith(steps.key(""))]
        rows_by_name = {
            name: row for name in names if name != BASELINE and (row := self._row(steps.key(name))) is not None
        }
        kd = self._row(steps.key("kd"))
        rows = [["step", "ratio", "lowest", "highest", "time", "to `kd`"]]
        for name, row in sorted(rows_by_name.items(), key=lambda item: statistics.median(item[1].ratios)):
            ratios = [format_ratio(pick(row.ratios)) for pick in (statistics.median, min, max)]
            to_kd = (
                _UNKNOWN if kd is None else format_ratio(statistics.median(row.ratios) / statistics.median(kd.ratios))
            )
            time = amount(steps.seconds(name, self.store) or 0.0, "s")
            rows.append([f"cost of `{name}`", *ratios, time, to_kd])
        return rows

    def _weights(self) -> list[Cells]:
        rows = [["method", "loss", "equal iterations", "equal time", "where it comes from"]]
        for name, one in self.equal_iterations.items():
            later = self.equal_time.get(name)
            for loss, weights in one.weights.items():
                then = _range(later.weights.get(loss, ())) if later is not None else _UNKNOWN
                rows.append([f"`{name}`", loss, _range(weights), then, one.origins[loss]])
        return rows

    def _describe_losses(self) -> str:
        row = next((row for one in self.store.results if one.startswith("loss ") and (row := self._row(one))), None)
        return (
            f"Forward and backward of a loss alone, batch 2, maps of {losses.SIDE}x{losses.SIDE} with "
            f"{losses.CHANNELS} channels (logits: {losses.CLASSES}) in both networks, labels of that size, default "
            "options, against a plain one that is written straight from the formula and leaves all of it to autograd. "
            "Value and gradients of both, of the maps and of all that learns, agree to a relative "
            f"{losses.TOLERANCE:g} (mgd, with a ReLU within: {losses.ACROSS_KINKS['mgd']:g}) before they are timed in "
            "turns in one process; ratios are the median of "
            f"{len(row.ours) if row is not None else 0} pair(s). Memory is what a pass adds to the memory in use; "
            "each side runs in a separate process."
        )

    def _losses(self) -> list[Cells]:
        rows = [["loss", "plain", "rmrkd", "plain : rmrkd", "plain, memory", "rmrkd, memory", "plain : rmrkd, memory"]]
        for name, result in sorted(self.store.results.items()):
            if not name.startswith(losses.key("")):
                continue
            cells = [f"`{name.removeprefix(losses.key(''))}`"]
            for row in result.rows:
                cells += [amount(statistics.median(side), row.unit) for side in (row.plain, row.ours)]
                cells.append(ratio_range(row.ratios))
            rows.append(cells + [_UNKNOWN] * (len(rows[0]) - len(cells)))
        return rows

    def _row(self, name: str) -> Row | None:
        result = self.store.results.get(name)
        return result.rows[0] if result is not None else None


def _describe_iterations(outcomes: Mapping[str, Outcome]) -> str:
    count = {one.iterations for name, one in outcomes.items() if name != TEACHER}
    return (
        f"mIoU in percent after {' or '.join(map(str, sorted(count)))} iterations, best mean first; sd is the standard "
        "deviation over the seeds, each difference is to the baseline of the same seed. Seconds of a step and their "
        "ratio to the baseline's are those of the table below. Memory is the peak of the training's whole process, "
        "with libraries, images and evaluation (on a GPU: what torch allocated)."
    )


def _chosen_settings(chosen: Mapping[str, Sequence[str]]) -> list[Cells]:
    rows = [["method", "settings", "chosen"]]
    for name, settings in chosen.items():
        values = (text.partition("=") for text in settings)
        cells = ", ".join(f"{key} {float(value):.3g}" for key, _, value in values)
        rows.append([f"`{name}`", str(len(settings)), cells])
    return rows


def _differences(one: Outcome, base: Outcome) -> list[float]:
    return [ours - theirs for ours, theirs in zip(one.miou, base.miou, strict=True)]


def _mean_value(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _format_mean(values: Sequence[float]) -> str:
    return f"{_mean_value(values):.2f}"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.stdev(values):.2f}" if len(values) > 1 else _UNKNOWN


def _list(values: Sequence[float], form: str = ".2f") -> str:
    return ", ".join(format(value, form) for value in values)


def _range(values: Sequence[float]) -> str:
    if not values:
        return _UNKNOWN
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} – {high:g}"


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
