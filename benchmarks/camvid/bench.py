"""Run everything that is missing, several trainings side by side, and write the page anew after each training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.camvid import costs, latency, picture, plan
from benchmarks.camvid.jobs import Job, run_jobs
from benchmarks.camvid.page import Page
from benchmarks.camvid.plan import Files, Row
from benchmarks.camvid.trainings import ROWS, Trainings, miou, result_of, student_of
from benchmarks.machine import date_and_commit, describe_machine
from benchmarks.methods.runs import Training, start
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset

TEACHER_A, _MASKS_OF_B = "teacher a", "masks of b"


@dataclass
class Bench:
    """Attributes: `failed` names what ended with an error."""

    files: Files
    trainings: Trainings
    teacher_iterations: int
    jobs: int
    output: Path
    say: Callable[[str], object]
    failed: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Run what is missing; return the names of what failed."""
        plan.make_roots(self.files)
        for part in (self._networks, self._equal_time, self._speed, self._picture):
            part()
            self._write()
            if self.failed:
                break
        return self.failed

    def _networks(self) -> None:
        """Train everything that is known before; what stands first is preferred when a job can start."""
        self._run([*self._teachers(), *self._trials(), *self._rows(ROWS), *self._evaluations()])

    def _teachers(self) -> Iterator[Job]:
        yield self._outputs("b")
        yield Job(TEACHER_A, lambda: plan.teacher_training(self.files, self.teacher_iterations))
        yield self._outputs("c", TEACHER_A)
        yield Job(_MASKS_OF_B, partial(plan.label_arguments, self.files), once=True)

    def _outputs(self, name: str, *after: str) -> Job:
        return Job(_outputs_of(name), partial(plan.cache_arguments, self.files, name), after, once=True)

    def _evaluations(self) -> Iterator[Job]:
        """Yield the commands that measure the teachers on the validation images."""
        views = ["--flip", "--scales", plan.SCALES]
        for name, file, options in (
            ("a", self.files.teacher_a, ["--dataset", "camvid"]),
            ("a-views", self.files.teacher_a, ["--dataset", "camvid", *views]),
            ("b", self.files.teacher_b, ["--preset", str(plan.PRESETS / "student-from-b.yaml")]),
        ):
            common = ["--data-root", str(self.files.data), "--device", "cpu"]
            arguments = ["eval", str(file), *options, *common, "--json", str(self.files.folder / f"{name}.json")]
            yield Job(f"mIoU of {name}", partial(list, arguments), (TEACHER_A,), once=True)

    def _trials(self) -> Iterator[Job]:
        """Yield the trainings with each learning rate and each weight, with one seed."""
        for lr in plan.LEARNING_RATES:
            yield Job(_lr_trial(lr), partial(self.trainings.lr_trial, lr))
        for factor in plan.WEIGHT_FACTORS:
            for row in plan.METHODS:
                after = _LR_TRIALS if factor == 1 else (_weight_trial(row, 1.0),)  # which has the automatic weights
                work = partial(self.trainings.weight_trial, row, factor)
                yield Job(_weight_trial(row, factor), work, (*after, *_teacher_of(row)))

    def _rows(self, rows: Sequence[Row]) -> Iterator[Job]:
        tuned = {row.name: row for row in plan.METHODS}
        for seed in self.trainings.seeds:
            for row in rows:
                like = tuned.get(row.tuned_like or row.name)
                trials = [_weight_trial(like, factor) for factor in plan.WEIGHT_FACTORS] if like is not None else []
                work = partial(self.trainings.of, row, seed)
                yield Job(f"{row.name}, seed {seed}", work, (*_LR_TRIALS, *trials, *_teacher_of(row)))

    def _equal_time(self) -> None:
        """Measure the time of a step of each row, then train the best methods again."""
        if not self.failed:
            if not self.files.costs.is_file():
                self.failed += costs.measure(self.files, [row for row in ROWS if row.length == 1], self.say, start)
            self._run(list(self._rows(self.trainings.equal_time_rows())))

    def _speed(self) -> None:
        """Export what the page compares, and run it in onnxruntime."""
        files = {"teacher A": self.files.teacher_a}
        for name, row in (("student 1", plan.BASELINE), ("student 2", plan.SMALL[0])):
            files[name] = student_of(self.trainings.of(row, self.trainings.seeds[0]))
        networks = {name: self.files.folder / "onnx" / f"{name.replace(' ', '-')}.onnx" for name in files}
        networks["teacher A"].parent.mkdir(exist_ok=True)
        self._run(
            [
                Job(f"export of {name}", partial(list, ["export", str(file), str(networks[name]), "--force"]))
                for name, file in files.items()
                if not _is_newer(networks[name], file)
            ]
        )
        if not self.failed:
            networks["teacher B"] = self.files.teacher_b
            speeds = {name: speed.entries() for name, speed in latency.measure(networks).items()}
            (self.files.folder / "speed.json").write_text(json.dumps(speeds))

    def _picture(self) -> None:
        """Draw images on which distillation changed about as much as on most others."""
        results, best = self.trainings.results(), self.trainings.best(1)[0]
        names = picture.typical_images(results[plan.BASELINE.name][0], results[best.name][0], 3)
        seed = self.trainings.seeds[0]
        files = {row.name: student_of(self.trainings.of(row, seed)) for row in (plan.BASELINE, best)}
        files["teacher A"] = self.files.teacher_a
        folders = {name: self.files.folder / "predictions" / name.replace(" ", "-") for name in files}
        shutil.rmtree(folders["teacher A"].parent, ignore_errors=True)  # `eval` fills empty folders only
        common = ["--data-root", str(self.files.data), "--device", "cpu", "--save-predictions"]
        self._run(
            [
                Job(f"predictions of {name}", partial(list, ["eval", str(file), *common, str(folders[name])]))
                for name, file in files.items()
            ]
        )
        if not self.failed:
            columns = {"photograph": self.files.data / "val", "truth": self.files.data / "valannot", **folders}
            palette = dataset_info(load_preset(str(plan.PRESETS / "student.yaml"))).palette
            picture.draw(names, columns, palette, self.output.with_suffix(".png"))

    def _run(self, jobs: Sequence[Job]) -> None:
        """Run what is not finished."""
        self.failed += run_jobs(jobs, self.jobs, self._run_one)

    def _run_one(self, job: Job) -> bool:
        """Run a job, and return whether it succeeded."""
        work = job.work()
        output = self.files.folder / "output" / f"{job.name.replace(', ', '-').replace(' ', '-')}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        done = output.with_suffix(".done")
        try:
            if work.finished if isinstance(work, Training) else done.is_file():
                return True
        except RmrkdError as error:
            self.say(f"{job.name}: {error.message}")
            return False
        self.say(job.name)
        if status := start(work.arguments() if isinstance(work, Training) else work, output):
            self.say(f"{job.name}: ended with {status}, see {output}")
        elif isinstance(work, Training):
            self.say(f"{job.name}: mIoU {100 * miou(result_of(work)):.2f}")
            self._write()
        elif job.once:
            done.touch()
        return not status

    def _write(self) -> None:
        page = Page(self.files, self.trainings, date_and_commit(), describe_machine("cpu"))
        self.output.write_text(page.text(), encoding="utf-8")


def _is_newer(path: Path, source: Path) -> bool:
    return path.is_file() and path.stat().st_mtime > source.stat().st_mtime


def _outputs_of(name: str) -> str:
    return f"outputs of {name}"


def _lr_trial(lr: float) -> str:
    return f"trial of the baseline, lr {lr:g}"


def _weight_trial(row: Row, factor: float) -> str:
    return f"trial of {row.name}, weights x{factor:g}"


def _teacher_of(row: Row) -> tuple[str, ...]:
    """Return the job that makes what a row learns from."""
    if row.method == "baseline":
        return ()
    masks = (_MASKS_OF_B,) if "predicted" in row.data else ()
    return (TEACHER_A if row.outputs is None else _outputs_of(row.outputs), *masks)


_LR_TRIALS = tuple(map(_lr_trial, plan.LEARNING_RATES))
