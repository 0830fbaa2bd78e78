"""Run everything that is missing, several trainings side by side, and write the page anew after each part."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.camvid import latency, picture, plan
from benchmarks.camvid.page import Page
from benchmarks.camvid.plan import Files, Row
from benchmarks.camvid.trainings import Trainings, miou, result_of, student_of
from benchmarks.machine import date_and_commit, describe_machine
from benchmarks.methods.runs import Training, start
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset

PARTS = ("teachers", "trials", "methods", "equal-time", "labels", "small", "speed", "picture")
Job = tuple[str, Training | list[str]]  # a name, and a training or the arguments of `rmrkd`


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

    def run(self, parts: Sequence[str]) -> list[str]:
        """Run these parts; return the names of what failed."""
        for part in parts:
            getattr(self, f"_{part.replace('-', '_')}")()
            if self.failed:
                break
            self._write()
        return self.failed

    def _teachers(self) -> None:
        plan.make_eighth(self.files)
        self._run([(f"outputs of {name}", plan.cache_arguments(self.files, name)) for name in ("b", "b-eighth")])
        threads = os.environ.pop("OMP_NUM_THREADS", None)  # it runs alone
        self._run([("teacher A", plan.teacher_training(self.files, self.teacher_iterations))])
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
        self._run([(f"outputs of {name}", plan.cache_arguments(self.files, name)) for name in ("a", "c")])
        self._run(self._evaluations())

    def _evaluations(self) -> Iterable[Job]:
        """Yield the commands that measure the teachers on the validation images."""
        for name, file, options in (
            ("a", self.files.teacher_a, ["--dataset", "camvid"]),
            ("a-views", self.files.teacher_a, ["--dataset", "camvid", "--flip", "--scales", plan.SCALES]),
            ("b", self.files.teacher_b, ["--preset", str(plan.PRESETS / "student-from-b.yaml")]),
        ):
            output = self.files.folder / f"{name}.json"
            if not output.is_file():
                common = ["--data-root", str(self.files.data), "--device", "cpu", "--json", str(output)]
                yield f"mIoU of {name}", ["eval", str(file), *options, *common]

    def _trials(self) -> None:
        """Train with each learning rate and each weight for a third of the iterations, with one seed."""
        rates = plan.LEARNING_RATES
        self._run([(f"trial of the baseline, lr {rate:g}", self.trainings.lr_trial(rate)) for rate in rates])
        for factors in (plan.WEIGHT_FACTORS[:1], plan.WEIGHT_FACTORS[1:]):  # the first measures the automatic weights
            if not self.failed:
                self._run(
                    (f"trial of {row.name}, weights x{factor:g}", self.trainings.weight_trial(row, factor))
                    for row in plan.METHODS
                    for factor in factors
                )

    def _methods(self) -> None:
        self._rows([plan.BASELINE, *plan.METHODS])

    def _equal_time(self) -> None:
        self._rows(self.trainings.equal_time_rows())

    def _labels(self) -> None:
        self._rows(plan.WITHOUT_LABELS)

    def _small(self) -> None:
        self._rows(plan.SMALL)

    def _rows(self, rows: Sequence[Row]) -> None:
        seeds = self.trainings.seeds
        self._run([(f"{row.name}, seed {seed}", self.trainings.of(row, seed)) for seed in seeds for row in rows])

    def _speed(self) -> None:
        """Export what the page compares, and run it in onnxruntime."""
        files = {"teacher A": self.files.teacher_a}
        for name, row in (("student 1", plan.BASELINE), ("student 2", plan.SMALL[0])):
            files[name] = student_of(self.trainings.of(row, self.trainings.seeds[0]))
        networks = {name: self.files.folder / "onnx" / f"{name.replace(' ', '-')}.onnx" for name in files}
        networks["teacher A"].parent.mkdir(exist_ok=True)
        self._run(
            (f"export of {name}", ["export", str(file), str(networks[name]), "--force"]) for name, file in files.items()
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
            (f"predictions of {name}", ["eval", str(file), *common, str(folders[name])]) for name, file in files.items()
        )
        if not self.failed:
            columns = {"photograph": self.files.data / "val", "truth": self.files.data / "valannot", **folders}
            palette = dataset_info(load_preset(str(plan.PRESETS / "student.yaml"))).palette
            picture.draw(names, columns, palette, self.output.with_suffix(".png"))

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
        page = Page(self.files, self.trainings, date_and_commit(), describe_machine("cpu"))
        self.output.write_text(page.text(), encoding="utf-8")
