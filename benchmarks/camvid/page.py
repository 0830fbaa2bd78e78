"""Write CAMVID.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import scipy.stats

from benchmarks.camvid import plan
from benchmarks.camvid.latency import THREADS, Speed
from benchmarks.camvid.plan import Files, Row
from benchmarks.camvid.trainings import ROWS, Trainings, miou
from benchmarks.records import read
from benchmarks.report import table
from rmrkd_cli.comparison.compare import compare
from rmrkd_cli.results.record import Record, read_record

_HEADER = (
    "trained with", "mIoU", "sd", "difference", "95 %, seeds", "by seed", "95 %, images", "iterations", "s/step",
    "mIoU by seed",
)  # fmt: skip
_TEACHERS = {plan.A: "A", plan.A_VIEWS: "A, mirrored and at three scales", plan.B: "B"}
_INTRODUCTION = """\
Photographs of streets, 480x360, 11 classes: 367 to train on, 101 to validate on.

- Student 1 is DeepLabV3+ on MobileNetV2 at stride 16 with 64 channels in its head, 2.15 M parameters. It starts from
  ImageNet weights. Student 2 has a third of the width, 0.4 M parameters, and starts from random weights.
- Teacher A is the same at stride 8 with 128 channels. It is trained on the masks, with teacher B as its teacher.
- Teacher B is an ONNX file that has learned Cityscapes, and has never seen CamVid.
- Teacher C is the mean of A and B, mirrored and at three scales, stored once for the training images.
- Students train with 8 crops of 224x224 a step. With one seed they start from the same weights and see the same images
  in the same order.

mIoU is in percent, of the last iteration, and a mean over the seeds; sd is their standard deviation. Each difference is
to the first row. Its first interval, by Student's t, is over the choice of the seeds: whether training again would show
a difference. The second one is over the choice of the images, for these students. It is too narrow, as the validation
images are neighbouring frames of one video. Learning rate, weights and the best method were chosen on the same 101
images, the first two with seed 0. The test split was not used.

s/step is the smallest of three medians, in turns on one thread while no other training of this benchmark ran.
`camvid/results` contains the command of each training, its result for each image, and its curve. `rmrkd compare` reads
these files."""
_FEWER_MASKS = """\
The 46 masks are those of every eighth image of the videos. Without a mask, an image has the prediction of B as its
mask, or none: then cwd alone learns from it, and half of each batch has masks."""
_TRIALS = """\
mIoU after a third of the iterations with seed 0. All students have the learning rate of the best baseline. Each method
has as many trials of its weights as the baseline has of its learning rate, the third on the side of the better of the
first two. All other rows of students 1 and 2 have the learning rate and weights that were best for student 1 with all
masks. A trial of rmrkd with weights x3 had 50.19; it ran before the third trial followed from the first two."""
_CURVE = "Mean mIoU over the seeds while training. The last value is that of the tables."
_CLASSES = "IoU in percent, mean over the seeds, and what each class contributes to the difference of mIoU."
_SPEED = """\
One image in onnxruntime on the CPU, in turns, median and smallest milliseconds of 20. B runs at 641x481. INT8 has 8-bit
weights, for processors with VNNI; on others, 8-bit weights overflow."""

_PICTURE = "Students of the first seed, on images on which distillation changed about as much as on most others."


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
        parts = ["# CamVid", f"Written by `python -m benchmarks.camvid`, {self.taken}."]
        machine = self.trainings.machine() or self.machine
        parts += ["\n".join(f"- {name}: {value}" for name, value in machine.items()), _INTRODUCTION]
        parts += [*self._unfinished(), *self._teachers()]
        equal_time = self._equal_time
        for title, text, rows in (
            ("Student 1 with all masks, equal iterations", "", (plan.BASELINE, *self.trainings.methods)),
            ("Student 1 with all masks, twice the iterations", "", self._twice),
            ("Student 1 with all masks, equal time", "", (plan.BASELINE, *equal_time) if equal_time else ()),
            ("Student 1 with fewer masks", _FEWER_MASKS, (plan.BASELINE, *plan.WITHOUT_LABELS)),
            ("Student 2", "", plan.SMALL),
        ):
            cells = [self._cells(row) for row in rows if row.name in self._results]
            if len(cells) > 1:
                parts += [f"## {title}", *([text] if text else []), table(_HEADER, cells)]
        parts += [*self._classes(), *self._curves(), *self._best(), *self._trials(), *self._hashes()]
        return "\n\n".join(parts) + "\n"

    @cached_property
    def _equal_time(self) -> list[Row]:
        return self.trainings.equal_time_rows()

    @cached_property
    def _twice(self) -> list[Row]:
        return self.trainings.twice_rows()

    @cached_property
    def _costs(self) -> dict[str, float]:
        return self.trainings.costs()

    @cached_property
    def _results(self) -> dict[str, list[Record]]:
        return self.trainings.results(self._rows)

    @cached_property
    def _rows(self) -> list[Row]:
        return [*ROWS, *self.trainings.others, *self._equal_time, *self._twice]

    def _unfinished(self) -> Iterator[str]:
        """Yield the names of the rows of which a seed is missing."""
        names = [row.name for row in self._rows if row.name not in self._results]
        if names:
            yield f"Not finished, and left out: {', '.join(names)}. The same command continues."

    def _teachers(self) -> Iterator[str]:
        paths = {title: self.files.results_of(name) for name, title in _TEACHERS.items()}
        values = {title: miou(read_record(path)) for title, path in paths.items() if path.is_file()}
        if stored := read(self.files.results_of("outputs-c")):
            values["C: A and B, mirrored and at three scales, every third image"] = stored["miou"]
        if values:
            rows = [(title, f"{100 * value:.2f}") for title, value in values.items()]
            yield "## Teachers"
            yield table(("teacher", "mIoU"), rows)

    def _cells(self, row: Row) -> tuple[str, ...]:
        results = self._results[row.name]
        values = [100 * miou(record) for record in results]
        training = [record["training"] for record in results]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "–"
        return (
            row.title, f"{statistics.mean(values):.2f}", spread,
            *_difference(results, self._results.get(row.base or "")),
            f"{training[0]['iterations']}", f"{self._costs[row.name]:.2f}" if row.name in self._costs else "–",
            ", ".join(f"{value:.2f}" for value in values),
        )  # fmt: skip

    def _classes(self) -> Iterator[str]:
        """Yield the classes in which the best method differs from the baseline."""
        rows = [plan.BASELINE, *self.trainings.best(1)]
        if not all(row.name in self._results for row in rows) or len(rows) < 2:
            return
        names = self._results[plan.BASELINE.name][0]["protocol"]["classes"]
        before, after = (_mean_ious(self._results[row.name]) for row in rows)
        yield f"## Classes of {rows[0].title} and of {rows[1].title}"
        yield _CLASSES
        cells = [
            (name, f"{old:.2f}", f"{new:.2f}", f"{new - old:+.2f}", f"{(new - old) / len(names):+.2f}")
            for name, old, new in zip(names, before, after, strict=True)
            if old is not None and new is not None
        ]
        yield table(("class", rows[0].title, rows[1].method, "difference", "of mIoU"), cells)

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
            header = ("network", "ONNX file", "mIoU of the file", *(f"ms, {count} thread(s)" for count in THREADS))
            rows = []
            for name, entries in measured["speed"].items():
                speed = Speed.read(entries)
                times = [speed.milliseconds[count] for count in THREADS]
                value = measured["miou"].get(name)
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
            (name, str(seed), f"`{record['checkpoint_sha256'][:16]}`")
            for name, results in self._results.items()
            for seed, record in zip(self.trainings.seeds, results, strict=True)
        ]
        if rows:
            yield "## Student files"
            yield table(("row", "seed", "SHA-256 begins"), rows)


def _mean_ious(results: Sequence[Record]) -> list[float | None]:
    """Return the mean IoU of each class in percent; None if the class does not occur."""
    of_classes = zip(*(record["metrics"]["iou"] for record in results), strict=True)
    return [None if None in values else 100 * statistics.fmean(values) for values in of_classes]


def _name_with_student(row: Row) -> str:
    return f"student {2 if row in plan.SMALL else 1}, {row.title}"


def _difference(results: Sequence[Record], base: Sequence[Record] | None) -> tuple[str, str, str, str]:
    """Return the difference to other records: mean, interval over seeds, each seed, interval over images."""
    if base is None:
        return "–", "–", "–", "–"
    found = compare([*base, *results]).differences[0]
    low, high = found.mean.low, found.mean.high
    over_images = _interval(100 * low, 100 * high) if low is not None and high is not None else "–"
    by_seed = [100 * value for _, value in found.by_seed]
    over_seeds = _interval(*interval_over_seeds(by_seed)) if len(by_seed) > 1 else "–"
    each = ", ".join(f"{value:+.2f}" for value in by_seed)
    return f"{100 * (found.mean.value or 0):+.2f}", over_seeds, each, over_images


def interval_over_seeds(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference if seeds were drawn anew, by Student's t."""
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    half = float(scipy.stats.t.ppf(0.975, len(differences) - 1)) * error
    return mean - half, mean + half


def _interval(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}"
