"""Differences of mIoU between two rows, and how sure they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import scipy.stats

from benchmarks.camvid.plan import Row
from benchmarks.camvid.trainings import miou
from rmrkd_cli.results.record import Record


@dataclass(frozen=True)
class Difference:
    """Differences of mIoU in percentage points, seed by seed."""

    by_seed: tuple[float, ...]

    @classmethod
    def between(cls, results: Sequence[Record], base: Sequence[Record]) -> Difference:
        pairs = zip(results, base, strict=True)
        return cls(tuple(100 * (miou(one) - miou(other)) for one, other in pairs))

    @property
    def mean(self) -> float:
        return statistics.mean(self.by_seed)

    @property
    def low(self) -> float:
        """The lower end of the interval over the seeds; minus infinity with one seed."""
        return interval_over_seeds(self.by_seed)[0] if len(self.by_seed) > 1 else -math.inf

    def __str__(self) -> str:
        mean, interval, _ = self.cells()
        return f"{mean} ({interval})"

    def cells(self) -> tuple[str, str, str]:
        """Return the mean, its interval, and each seed's difference."""
        interval = "–"
        if len(self.by_seed) > 1:
            low, high = interval_over_seeds(self.by_seed)
            interval = f"{low:+.2f} to {high:+.2f}"
        return f"{self.mean:+.2f}", interval, ", ".join(f"{value:+.2f}" for value in self.by_seed)


def difference(results: Mapping[str, Sequence[Record]], row: Row, base: Row) -> Difference | None:
    """Return the difference of a row to another one; None until both are finished."""
    if row.name not in results or base.name not in results:
        return None
    return Difference.between(results[row.name], results[base.name])


def interval_over_seeds(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference if seeds were drawn anew, by Student's t."""
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    half = float(scipy.stats.t.ppf(0.975, len(differences) - 1)) * error
    return mean - half, mean + half
