"""Settings and results of a benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Disagreement(Exception):
    """The two sides of a benchmark give different results, so their times cannot be compared."""


@dataclass(frozen=True)
class Setting:
    """How benchmarks run.

    Attributes:
        pairs: Timed runs of each side; the sides alternate.
        quick: Use tiny sizes, only to check that a benchmark runs.
        device: "cpu" or "cuda".
        say: Called with each line of progress.
    """

    pairs: int = 5
    quick: bool = False
    device: str = "cpu"
    log: Callable[[str], None] = lambda _: None

    @property
    def min_seconds(self) -> float:
        """Minimum seconds of a timing: a shorter run is repeated, and the mean is used."""
        return 0.0 if self.quick else 0.5


@dataclass
class Row:
    """One row of a table: both sides of every pair.

    Attributes:
        label: What was measured.
        unit: "s" or "B".
        plain: The reference: plain or released code, or a lower bound.
        ours: rmrkd.
        bound: `plain` is a lower bound and the ratio is ours / plain; else it is plain / ours.
        goal: The ratio to reach: a minimum, or a maximum if `bound`.
    """

    label: str
    unit: str
    plain: list[float]
    ours: list[float]
    bound: bool = False
    goal: float | None = None

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.plain, self.ours, strict=True)
        return [ours / plain if self.bound else plain / ours for plain, ours in pairs]

    @property
    def meets_goal(self) -> bool | None:
        if self.goal is None:
            return None
        ratio = statistics.median(self.ratios)
        return ratio <= self.goal if self.bound else ratio >= self.goal


@dataclass
class Result:
    """The result of a benchmark: its rows, and sentences that describe them.

    Attributes:
        what: What is compared.
        checked: How it was checked that both sides give the same result.
        figures: Further sentences with figures.
        taken: Date and commit, set by the caller.
    """

    name: str
    what: str
    checked: str
    rows: list[Row]
    figures: list[str] = field(default_factory=list)
    taken: str = ""

    @classmethod
    def read(cls, stored: dict[str, Any]) -> Result:
        """Return a result from its `dataclasses.asdict`."""
        return cls(**{**stored, "rows": [Row(**row) for row in stored["rows"]]})


Benchmark = Callable[[Setting], Result]
