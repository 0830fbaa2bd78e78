"""What the best students are worth to users: ONNX files with their size, speed and mIoU, and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.camvid import latency, picture, plan
from benchmarks.camvid.plan import Files, Row
from benchmarks.camvid.trainings import Trainings, miou, student_of
from benchmarks.jobs import Job, file_stem
from benchmarks.machine import describe_machine
from benchmarks.records import read, write
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.results.record import read_records

STUDENT_1, STUDENT_2, INT8, TEACHER_A, TEACHER_B = "student 1", "student 2", "student 1, INT8", "teacher A", "teacher B"
MASKS_ALONE = "masks alone"
_PICTURE_ROWS = 3


@dataclass(frozen=True)
class Best:
    """Students of the first seed, as examples of all."""

    files: Files
    trainings: Trainings

    @property
    def rows(self) -> dict[str, Row]:
        """The best method of student 1, that of student 2, and the baseline, as the page names them."""
        [first], [second] = self.trainings.best(1), self.trainings.best(1, plan.SMALL[1:])
        return {STUDENT_1: first, STUDENT_2: second, MASKS_ALONE: plan.BASELINE}

    @property
    def results(self) -> dict[str, Any]:
        """What was measured with these students; empty if it was with others."""
        found = read(self.files.best)
        return found if found.get("students") == self._hashes() else {}

    def jobs(self, row_names: Mapping[str, str], teacher: str) -> Iterator[Job]:
        """Yield the commands that export, measure and predict.

        Args:
            row_names: Of the jobs that train the rows, by the names in `rows`.
            teacher: Of the job that trains teacher A.
        """
        data = ["--data-root", str(self.files.data), "--device", "cpu"]
        exported = {TEACHER_A: teacher, **{name: row_names[name] for name in (STUDENT_1, STUDENT_2)}}
        for name, after in exported.items():
            source = partial(self._source, name)
            yield Job(f"export of {name}", partial(self._export, source, name), (after,))
        images = str(self.files.data / "train")
        int8 = ["--quantize", "int8", "--calibration", images, "--max-loss", "100"]  # measured whatever it loses
        source = partial(self._source, STUDENT_1)
        yield Job(f"export of {INT8}", partial(self._export, source, INT8, *int8), (row_names[STUDENT_1],))
        for name in (STUDENT_1, INT8):
            arguments = ["eval", str(self._onnx(name)), *data, "--json", str(self._json(name)), "--force"]
            yield Job(f"mIoU of {name}", partial(list, arguments), (f"export of {name}",))
        drawn = {STUDENT_1: row_names[STUDENT_1], MASKS_ALONE: row_names[MASKS_ALONE], TEACHER_A: teacher}
        for name, after in drawn.items():
            folder = self._predictions(name)
            yield Job(f"predictions of {name}", partial(self._predict, name, data), (after,), folder=folder)

    def measure(self, output: Path) -> None:
        """Time the ONNX files, draw the picture, and keep the results."""
        networks = {name: self._onnx(name) for name in (STUDENT_1, INT8, STUDENT_2, TEACHER_A)}
        speeds = latency.measure({**networks, TEACHER_B: self.files.teacher_b})
        self._draw(output)
        contents = {
            "students": self._hashes(),
            "machine": describe_machine("cpu"),
            "miou": {name: miou(read_records(self._json(name))[0]) for name in (STUDENT_1, INT8)},
            "speed": {name: speed.entries() for name, speed in speeds.items()},
        }
        write(self.files.best, contents)

    def _draw(self, output: Path) -> None:
        """Draw images on which distillation changed about as much as on most others."""
        results = self.trainings.results()
        rows = (self.rows[MASKS_ALONE], self.rows[STUDENT_1])
        baseline, distilled = (results[row.name][0] for row in rows)
        names = picture.typical_images(baseline, distilled, _PICTURE_ROWS)
        columns = {"photograph": self.files.data / "val", "truth": self.files.data / "valannot"}
        columns[MASKS_ALONE] = self._predictions(MASKS_ALONE)
        columns[rows[1].method] = self._predictions(STUDENT_1)
        columns[TEACHER_A] = self._predictions(TEACHER_A)
        palette = dataset_info(load_preset(str(plan.PRESETS / "student.yaml"))).palette
        picture.draw(names, columns, palette, output)

    def _source(self, name: str) -> Path:
        if name == TEACHER_A:
            return self.files.teacher_a
        return student_of(self.trainings.of(self.rows[name], self.trainings.seeds[0]))

    def _export(self, source: partial[Path], name: str, *options: str) -> list[str]:
        path = self._onnx(name)
        path.parent.mkdir(exist_ok=True)
        return ["export", str(source()), str(path), "--force", *options]

    def _predict(self, name: str, data: list[str]) -> list[str]:
        return ["eval", str(self._source(name)), *data, "--save-predictions", str(self._predictions(name))]

    def _hashes(self) -> dict[str, str]:
        results = self.trainings.results()
        return {name: results[row.name][0]["checkpoint_sha256"] for name, row in self.rows.items()}

    def _onnx(self, name: str) -> Path:
        return self.files.folder / "onnx" / f"{file_stem(name)}.onnx"

    def _json(self, name: str) -> Path:
        return self._onnx(name).with_suffix(".json")

    def _predictions(self, name: str) -> Path:
        return self.files.folder / "predictions" / file_stem(name)
