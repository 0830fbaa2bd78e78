"""The goals of the benchmark, and what was reached."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.camvid import plan
from benchmarks.camvid.best import STUDENT_1, TEACHER_A
from benchmarks.camvid.difference import difference
from benchmarks.camvid.latency import THREADS, Speed
from benchmarks.camvid.plan import Files, Row
from benchmarks.camvid.trainings import miou
from benchmarks.records import read
from rmrkd_cli.results.record import Record, read_record

_GAIN, _LOSS, _BEHIND_A, _LATENCY = 2.0, -5.0, -3.0, 1 / 3


@dataclass(frozen=True)
class Goals:
    """What was asked of distillation, with each length of training.

    Attributes:
        equal_iterations: Groups of rows of student 1 with all masks; the first row of each is masks alone.
        equal_time: The same for equal time.
        best: The best method of student 1 at equal iterations; empty until one is finished.
        results: Of all finished rows, by their names.
    """

    files: Files
    equal_iterations: Sequence[Sequence[Row]]
    equal_time: Sequence[Sequence[Row]]
    best: Sequence[Row]
    results: Mapping[str, Sequence[Record]]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield each goal that was measured, whether it was reached, and the figures."""
        yield from self._gain_goals()
        yield from self._label_goal()
        yield from self._size_goal()

    def _gain_goals(self) -> Iterator[tuple[str, str, str]]:
        gain = f"{_GAIN:+g} mIoU to {{}}, {{}} iterations"
        ahead = "at equal time ahead of {}, {} iterations, with an interval above 0"
        for title, (base, *rows), enough in (
            *((gain, group, None) for group in self.equal_iterations),
            *((ahead, group, 0.0) for group in self.equal_time),
        ):
            found = [(row, one) for row in rows if (one := difference(self.results, row, base))]
            if not found:
                continue
            row, best = max(found, key=lambda pair: pair[1].mean)
            reached = best.mean >= _GAIN if enough is None else best.low > enough
            iterations = self.results[row.name][0]["training"]["iterations"]
            yield title.format(base.title, iterations), _yes(reached), f"{row.title}: {best}"

    def _label_goal(self) -> Iterator[tuple[str, str, str]]:
        for base, *_ in self.equal_iterations:
            if found := difference(self.results, plan.PREDICTED, base):
                title = f"without masks, at most {-_LOSS:g} below {base.title}"
                yield title, _yes(found.mean >= _LOSS), f"{plan.PREDICTED.title}: {found}"

    def _size_goal(self) -> Iterator[tuple[str, str, str]]:
        """Yield whether student 1 has nearly the mIoU of teacher A at a third of its latency."""
        path, measured = self.files.results_of(plan.A), read(self.files.best)
        if not (path.is_file() and measured and self.best):
            return
        times = {name: Speed.read(measured["speed"][name]).milliseconds for name in (STUDENT_1, TEACHER_A)}
        shares = [times[STUDENT_1][count][1] / times[TEACHER_A][count][1] for count in THREADS]
        teacher = 100 * miou(read_record(path))
        behind, alone = (
            statistics.mean(100 * miou(record) for record in self.results[row.name]) - teacher
            for row in (self.best[0], plan.BASELINE)
        )
        reached = behind >= _BEHIND_A and shares[0] <= _LATENCY
        each = ", ".join(f"{share:.2f} with {count} thread(s)" for share, count in zip(shares, THREADS, strict=True))
        figures = f"{self.best[0].title}: {behind:+.2f} (masks alone: {alone:+.2f}); "
        figures += f"share of the smallest milliseconds {each}"
        title = f"at most {-_BEHIND_A:g} below teacher A, in a third of its latency with one thread"
        yield title, _yes(reached), figures


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"
