"""Write CAMVID.md."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.camvid import plan, records
from benchmarks.camvid.best import TEACHER_A, TEACHER_B
from benchmarks.camvid.difference import Difference, difference
from benchmarks.camvid.goals import Goals
from benchmarks.camvid.latency import THREADS, Speed
from benchmarks.camvid.plan import Files, Row
from benchmarks.camvid.trainings import ROWS, Trainings, miou
from benchmarks.records import read
from benchmarks.report import table
from rmrkd_cli.results.record import Record, read_record

_HEADER = (
    "trained with", "mIoU", "sd", "difference", "95 %, seeds", "difference by seed", "mIoU by seed", "iterations",
    "minutes",
)  # fmt: skip
_TEACHERS = {plan.A: "A", plan.A_VIEWS: "A, mirrored and at three scales", plan.B: "B"}
_STORED = {"outputs-b": "B", "outputs-c": "C: A and B, mirrored and at three scales"}
_INTRODUCTION = """\
Photographs of streets, 480x360, 11 classes: 367 to train on, 101 to validate on.

- Student 1 is DeepLabV3+ on MobileNetV2 at stride 16 with 64 channels in its head, 2.15 M parameters. It starts from
  ImageNet weights. Student 2 has a third of the width, 0.4 M parameters, and starts from random weights.
- Teacher A is student 1 at stride 8 with 128 channels, trained on the masks alone with one seed.
- Teacher B is an ONNX file that has learned Cityscapes and has never seen CamVid.
- Teacher C is the mean of A and B, mirrored and at three scales, stored once for the training images
  ([how](../docs/stored-outputs.md)). A live teacher sees the same crops as the student.
- kd, cwd, rmrkd, mgd and dkd are [methods](../docs/methods.md).
- Students train with 8 crops of 224x224 a step. With one seed they start from the same weights, and where they have the
  same images, see them in the same order.
- Cross-entropy has class weights, 1 / ln(1.02 + share of the pixels), from all training masks. The rows that learn from
  predictions have those of the predictions. For the rows with 46 masks the weights of these would differ by up to 9 %.

mIoU is in percent, of the last iteration, and a mean over the seeds; sd is their standard deviation. Each difference is
to the first row of its table, with its 95 % interval over the choice of the seeds, by Student's t from the differences
of the seeds: of three, so two degrees of freedom. It is not corrected for the number of comparisons, and covers neither
the choice of the settings nor the one seed of teacher A. Rows with more iterations than the one they are compared with
see the same batches first, at other learning rates, and then others. Rows with other images see other batches. Their
differences by seed are hardly those of pairs, and the intervals may be too narrow. There is no interval over the
images: the 101 are frames of one drive of seven seconds, and 204 of the training images come from the same video, some
of them a second away. Learning rate, weights and the best method were chosen on these 101 images, the first two with
seed 0. The test split was not used.

Minutes are those of the fastest seed, with another training beside it; the teacher's own are not in them.
`camvid/results` contains the command of each training, its result for each image, and its curve. `rmrkd compare` reads
these files."""
_GOALS = """\
The thresholds were set before the trainings. kd and cwd with twice the iterations were added when rmrkd had lost there,
four times the iterations and equal time with more than 600 when all other results were known. Each line has the best of
the finished methods, which favours distillation. With four times the iterations this is one method, chosen by its mean
with twice the iterations. The student without masks had 600 iterations. A gain of 2 is reached by the mean, whatever
its interval. It was asked for where masks alone has stopped improving: see how much more iterations still gain."""
_TWICE = """\
Masks alone and all methods. The curves below show whether they have stopped improving; the learning rate falls to its
end."""
_FOUR_TIMES = """\
Masks alone, and the method that is best in the table above."""
_EQUAL_TIME = """\
As many iterations as fit into the time of masks alone, by the seconds of a step, which were measured in turns on one
thread while no other training ran: {seconds}. Methods that take no longer are in the tables above. The minutes below
had other trainings beside them, and differ with those."""
_TEACHER_TIME = "Not counted: teacher A took {a:.0f} minutes, and the outputs of C {c:.0f}."
_FEWER_MASKS = """\
The 46 masks are those of every eighth image of the videos. The rows with fewer masks were not trained longer."""
_OTHER_IMAGES = """\
An image without a mask has the prediction of B as its mask, or none: then cwd alone learns from it, and half of each
batch has masks."""
_TRIALS = """\
mIoU after a third of the iterations with seed 0; x1 is the automatic weight. All students have the learning rate of the
best baseline. Each method has as many trials of its weights as the baseline has of its learning rate, the third on the
side of the better of the first two. The rows with the outputs of B have trials of their own: with the weight chosen for
those of C, 1.5, the student without masks had 46.60 with seed 0 (no record is kept), and these trials were added. All
other rows of students 1 and 2 have the learning rate and weights that were best for student 1 with all masks. A trial
of rmrkd with weights x3 had 50.19; it ran before the third trial followed from the first two. With one seed each, the
trials hardly separate these settings: the seeds of masks alone differ by 5 points after as many iterations."""
_CURVE = "Mean mIoU over the seeds while training. The last value is that of the tables."
_CLASSES = """\
IoU of masks alone in percent, and how many points of each method's difference of mIoU come from each class; means over
the seeds."""
_SPEED = """\
One image in onnxruntime on the CPU, in turns, median and smallest milliseconds of 20. B runs at 641x481. INT8 has 8-bit
weights, for processors with VNNI; on others, 8-bit weights overflow. Students are those of the first seed of the best
method at equal iterations."""
_HASHES = "First digits of the SHA-256 of each student, seed by seed. `camvid/results/rows` has the command of each."

_PICTURE = """\
Students of the first seed. Of all images, in order of how much distillation changed their mIoU, those in the middle are
shown."""


@dataclass(frozen=True)
class Page:
    """Attributes: `taken` is date and commit; `picture` is the file name of the predictions, beside the page."""

    files: Files
    trainings: Trainings
    taken: str
    machine: Mapping[str, str]
    picture: str

    def text(self) -> str:
        """Return the page; what is not measured yet is left out."""
        parts = ["# CamVid", f"Written by `python -m benchmarks.camvid`, {self.taken}.", *self._unfinished()]
        parts += [*self._goals(), "## Conditions", _INTRODUCTION, *self._teachers()]
        for title, text, rows in self._tables():
            found = [row for row in rows if row.name in self._results]
            if len(found) > 1:
                cells = [self._cells(row, found[0]) for row in found]
                parts += [f"## {title}", *([text] if text else []), table(_HEADER, cells)]
        parts += [*self._classes(), *self._curves(), *self._best(), *self._trials(), *self._hashes()]
        machine = self.trainings.machine() or self.machine
        parts += ["## Machine", "\n".join(f"- {name}: {value}" for name, value in machine.items())]
        return "\n\n".join(parts) + "\n"

    def _tables(self) -> Iterator[tuple[str, str, Sequence[Row]]]:
        """Yield the title, the text and the rows of each table; the first row is compared with."""
        equal, twice, four_times = self._equal_iterations
        yield "Student 1 with all masks, equal iterations", "", equal
        yield (
            "Student 1 with all masks, twice the iterations",
            _TWICE + self._differences((plan.BASELINE,), (plan.TWICE,)),
            twice,
        )
        gained = self._differences((plan.TWICE,), (plan.FOUR_TIMES,))
        yield "Student 1 with all masks, four times the iterations", f"{_FOUR_TIMES}{gained}", four_times
        yield "Student 1 with all masks, equal time", self._describe_time(), (plan.BASELINE, *self._equal_time)
        alone, fewer = (plan.BASELINE, plan.TWICE, plan.FOUR_TIMES), (plan.PREDICTED, plan.EIGHTH_ALONE)
        yield "Student 1 with fewer masks", f"{_FEWER_MASKS}{self._differences(alone[1:], fewer)}", (*alone, *fewer)
        with_others = (plan.EIGHTH_ALONE, *plan.WITH_OTHER_IMAGES)
        yield "Student 1 with 46 masks and the other images", _OTHER_IMAGES, with_others
        yield "Student 2", "", plan.SMALL

    def _goals(self) -> Iterator[str]:
        trainings = self.trainings
        equal_time = trainings.equal_time_groups(self._twice, self._four_times)
        goals = Goals(self.files, self._equal_iterations, equal_time, trainings.best(1), self._results)
        if rows := list(goals.rows()):
            yield "## Goals and results"
            yield _GOALS
            yield table(("goal", "reached", "measured"), rows)

    def _differences(self, bases: Sequence[Row], rows: Sequence[Row]) -> str:
        """Return the differences to masks alone with some number of iterations, in words."""
        text = ""
        for base in bases:
            found = [f"{row.title} {one}" for row in rows if (one := difference(self._results, row, base))]
            text += "\n\n" + textwrap.fill(f"To {base.title}: {'; '.join(found)}.", 120) if found else ""
        return text

    def _describe_time(self) -> str:
        titles = {row.name: row.method for row in (plan.BASELINE, *plan.METHODS)} | {plan.BASELINE.name: "masks alone"}
        seconds = ", ".join(f"{titles[name]} {value:.2f}" for name, value in self._costs.items() if name in titles)
        text = textwrap.fill(_EQUAL_TIME.format(seconds=seconds), 120)
        a = records.find(self.files, plan.teacher_training(self.files))
        c = read(self.files.results_of("outputs-c")).get("seconds")
        if a is None or c is None:
            return text
        return f"{text}\n{_TEACHER_TIME.format(a=a['training']['seconds'] / 60, c=c / 60)}"

    @cached_property
    def _equal_time(self) -> list[Row]:
        return self.trainings.equal_time_rows()

    @cached_property
    def _twice(self) -> list[Row]:
        return self.trainings.twice_rows()

    @cached_property
    def _four_times(self) -> list[Row]:
        return self.trainings.four_times_rows()

    @property
    def _equal_iterations(self) -> list[Sequence[Row]]:
        """Groups of rows with equal iterations; the first of each is masks alone."""
        return [(plan.BASELINE, *self.trainings.methods), self._twice, self._four_times]

    @cached_property
    def _costs(self) -> dict[str, float]:
        return self.trainings.costs()

    @cached_property
    def _results(self) -> dict[str, list[Record]]:
        return self.trainings.results(self._rows)

    @cached_property
    def _rows(self) -> list[Row]:
        return [*ROWS, *self.trainings.others, *self._equal_time, *self._twice, *self._four_times]

    def _unfinished(self) -> Iterator[str]:
        """Yield the names of the rows of which a seed is missing."""
        names = [row.name for row in self._rows if row.name not in self._results]
        if names:
            yield f"Not finished, and left out: {', '.join(names)}. The same command continues."

    def _teachers(self) -> Iterator[str]:
        paths = {title: self.files.results_of(name) for name, title in _TEACHERS.items()}
        rows = [
            (title, f"{100 * miou(read_record(path)):.2f}", "all") for title, path in paths.items() if path.is_file()
        ]
        for name, title in _STORED.items():
            if stored := read(self.files.results_of(name)):
                count, total = stored["images"]
                rows.append((f"{title}, as stored", f"{100 * stored['miou']:.2f}", f"{count} of {total}"))
        if rows:
            yield "## Teachers"
            yield table(("teacher", "mIoU", "validation images"), rows)

    def _cells(self, row: Row, base: Row) -> tuple[str, ...]:
        results = self._results[row.name]
        values = [100 * miou(record) for record in results]
        training = [record["training"] for record in results]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "–"
        cells = Difference.between(results, self._results[base.name]).cells() if row != base else ("–",) * 3
        return (
            row.title, f"{statistics.mean(values):.2f}", spread, *cells,
            ", ".join(f"{value:.2f}" for value in values), f"{training[0]['iterations']}",
            f"{min(one['seconds'] for one in training) / 60:.0f}",
        )  # fmt: skip

    def _classes(self) -> Iterator[str]:
        """Yield from which classes the differences to the baseline come, for each length of training."""
        groups = [[row for row in group if row.name in self._results] for group in self._equal_iterations]
        groups = [group for group in groups if len(group) > 1 and group[0].method == plan.BASELINE.method]
        if groups:
            yield "## Classes"
            yield _CLASSES
        for base, *rows in groups:
            record = self._results[base.name][0]
            before, *after = (_mean_ious(self._results[row.name]) for row in (base, *rows))
            names = record["protocol"]["classes"]
            cells = [
                (name, f"{old:.2f}", *(f"{(new - old) / len(names):+.2f}" for new in values if new is not None))
                for name, old, *values in zip(names, before, *after, strict=True)
                if old is not None and None not in values
            ]
            yield f"{record['training']['iterations']} iterations:"
            yield table(("class", base.title, *(row.method for row in rows)), cells)

    def _curves(self) -> Iterator[str]:
        rows = [row for row in self._rows if row.name in self._results and row not in self._equal_time]
        if not rows:
            return
        curves = {row: self._curve(row) for row in rows}
        steps = sorted({step for curve in curves.values() for step in curve})
        yield "## Validation while training"
        yield _CURVE
        cells = [
            (_name_with_student(row), *(f"{100 * curve[step]:.2f}" if step in curve else "–" for step in steps))
            for row, curve in curves.items()
        ]
        yield table(("iteration", *map(str, steps)), cells)

    def _curve(self, row: Row) -> dict[int, float]:
        """Return the mean mIoU over the seeds by iteration."""
        curves = [record["validated"] for record in self._results[row.name]]
        return {int(step): statistics.mean(curve[step] for curve in curves) for step in curves[0]}

    def _best(self) -> Iterator[str]:
        """Yield size, speed and mIoU of the ONNX files."""
        measured = read(self.files.best)
        if measured:
            header = ("network", "ONNX file", "mIoU", *(f"ms, {count} thread(s)" for count in THREADS))
            paths = {TEACHER_A: self.files.results_of(plan.A), TEACHER_B: self.files.results_of(plan.B)}
            of_teachers = {name: miou(read_record(path)) for name, path in paths.items() if path.is_file()}
            rows = []
            for name, entries in measured["speed"].items():
                speed = Speed.read(entries)
                times = [speed.milliseconds[count] for count in THREADS]
                value = measured["miou"].get(name, of_teachers.get(name))
                cells = (
                    "–" if value is None else f"{100 * value:.2f}",
                    *(f"{mid:.0f} ({low:.0f})" for mid, low in times),
                )
                rows.append((name, f"{speed.megabytes:.1f} MB", *cells))
            yield "## Size and speed"
            yield f"{_SPEED} Measured on {measured['machine']['CPU'].partition(',')[0]}."
            yield table(header, rows)
            yield "## Predictions"
            yield _PICTURE
            yield f"![Photographs, masks and predictions]({self.picture})"

    def _trials(self) -> Iterator[str]:
        rows = [(name, f"{100 * value:.2f}") for name, value in self.trainings.trial_results()]
        if rows:
            yield "## Trials"
            yield _TRIALS
            yield table(("with", "mIoU"), rows)

    def _hashes(self) -> Iterator[str]:
        rows = [
            (name, ", ".join(f"`{record['checkpoint_sha256'][:12]}`" for record in results))
            for name, results in self._results.items()
        ]
        if rows:
            yield "## Student files"
            yield _HASHES
            yield table(("row", "SHA-256 begins"), rows)


def _mean_ious(results: Sequence[Record]) -> list[float | None]:
    """Return the mean IoU of each class in percent; None if the class does not occur."""
    of_classes = zip(*(record["metrics"]["iou"] for record in results), strict=True)
    return [None if None in values else 100 * statistics.fmean(values) for values in of_classes]


def _name_with_student(row: Row) -> str:
    return f"student {2 if row in plan.SMALL else 1}, {row.title}"
