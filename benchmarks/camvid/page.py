"""Write CAMVID.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.camvid.plan import Files, Row
from benchmarks.report import table
from rmrkd_cli.comparison.compare import compare
from rmrkd_cli.results.record import Record, read_records
from rmrkd_cli.terminal.durations import format_duration

_TABLES = (
    ("Student 1 with all masks", "student", ("baseline", "kd", "cwd", "rmrkd", "mgd")),
    ("Fewer masks", "student", ("baseline", "no-masks", "eighth", "eighth-and-all")),
    ("Student 2", "small", ("small-baseline", "small-kd")),
)
_HEADER = (
    "trained with", "mIoU", "sd", "difference", "95 % interval", "by seed", "iterations", "s/step", "training",
    "mIoU by seed",
)  # fmt: skip
_TEACHERS = (("A", "a"), ("A, flip and scales", "a-views"), ("B", "b"))


@dataclass(frozen=True)
class Page:
    """Attributes: `results` by the names of rows that are complete, one record a seed; `trials` are text and mIoU."""

    files: Files
    rows: Sequence[Row]
    results: Mapping[str, Sequence[Record]]
    trials: Sequence[tuple[str, float]]
    taken: str
    machine: Mapping[str, str]

    def text(self) -> str:
        parts = ["# CamVid", f"Written by `python -m benchmarks.camvid`, {self.taken}."]
        parts.append("\n".join(f"- {name}: {value}" for name, value in self.machine.items()))
        parts += self._teachers()
        for title, _, names in _TABLES:
            rows = [self._cells(row) for row in self.rows if row.name in names and row.name in self.results]
            if rows:
                parts += [f"## {title}", table(_HEADER, rows)]
        if self.trials:
            rows = [(name, f"{100 * value:.2f}") for name, value in self.trials]
            parts += ["## Trials", table(("with", "mIoU"), rows)]
        return "\n\n".join(parts) + "\n"

    def _teachers(self) -> Iterator[str]:
        rows = []
        for title, name in _TEACHERS:
            path = self.files.folder / f"{name}.json"
            if path.is_file():
                [record] = read_records(path)
                rows.append((title, f"{100 * record['metrics']['miou']:.2f}"))
        if rows:
            yield "## Teachers"
            yield table(("teacher", "mIoU"), rows)

    def _cells(self, row: Row) -> tuple[str, ...]:
        records = self.results[row.name]
        values = [100 * record["metrics"]["miou"] for record in records]
        training = [record["training"] for record in records]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "–"
        return (
            row.title, f"{statistics.mean(values):.2f}", spread, *self._difference(row),
            f"{training[0]['iterations']}", f"{statistics.median(each['seconds_per_step'] for each in training):.2f}",
            format_duration(statistics.median(each["seconds"] for each in training)),
            ", ".join(f"{value:.2f}" for value in values),
        )  # fmt: skip

    def _difference(self, row: Row) -> tuple[str, str, str]:
        """Return the difference to the row's base, its interval over the images, and the difference of each seed."""
        base = self.results.get(row.base or "")
        if base is None:
            return "–", "–", "–"
        found = compare([*base, *self.results[row.name]]).differences[0]
        low, high = found.mean.low, found.mean.high
        interval = f"{100 * low:+.2f} to {100 * high:+.2f}" if low is not None and high is not None else "–"
        by_seed = ", ".join(f"{100 * value:+.2f}" for _, value in found.by_seed)
        return f"{100 * (found.mean.value or 0):+.2f}", interval, by_seed
