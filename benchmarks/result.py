"""What a measure is asked for and what it gives."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Disagreement(Exception):
    """The two sides of a measure do not give the same answer, so their times mean nothing."""


@dataclass(frozen=True)
class Setting:
    """How measures are taken.

    Attributes:
        pairs: Timed runs of each side, taken in turns.
        quick: Tiny sizes, which show that a measure works and nothing else.
        device: "cpu" or "cuda".
        say: Takes a line of progress.
    """

    pairs: int = 5
    quick: bool = False
    device: str = "cpu"
    say: Callable[[str], None] = lambda _: None

    @property
    def shortest(self) -> float:
        """Seconds a timing takes at least; a shorter run is repeated, and the mean counts."""
        return 0.0 if self.quick else 0.5


@dataclass
class Row:
    """One line of a table: both sides of every pair.

    Attributes:
        label: What of the measure it is.
        unit: "s" or "B".
        plain: The other side: plain or released code, or what cannot be avoided.
        ours: rmrkd.
        bound: The other side is a bound, and the ratio is ours to it; else it is the other side's to ours.
        goal: The least the ratio should be, or the most where `bound`.
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
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        ratio = statistics.median(self.ratios)
        return ratio <= self.goal if self.bound else ratio >= self.goal


@dataclass
class Result:
    """A measure's figures, and the sentences that say what they are.

    Attributes:
        what: What is compared.
        checked: How it was checked that both sides give the same answer.
        figures: Lines of further figures.
        taken: When and of which commit; filled in by whoever runs the measure.
    """

    name: str
    what: str
    checked: str
    rows: list[Row]
    figures: list[str] = field(default_factory=list)
    taken: str = ""

    @classmethod
    def read(cls, stored: dict[str, Any]) -> Result:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**stored, "rows": [Row(**row) for row in stored["rows"]]})


Measure = Callable[[Setting], Result]
