"""What a training run shows of itself while it goes, as plain text; the console draws it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rmrkd_cli.terminal.durations import clock
from rmrkd_cli.terminal.sanitize import escape_control

_BARS = "▁▂▃▄▅▆▇█"
_KEPT = 60  # logged steps
_MOST_ROWS = 4  # of losses
_NAME, _VALUE, _LINE, _GAP = 12, 6, 16, 2  # columns: a name at most, a value at least, a course at most, between losses


@dataclass
class TrainingStatus:
    """Where a run stands.

    Attributes:
        title: Its role.
        share: The part that is done, 0 to 1.
        reached: The same in words, `12/300`.
        step_seconds: Length of a step, 0 where none was taken yet.
        left: Seconds to the end, none where no step was taken yet.
        unknown: There are evaluations ahead that `left` does not hold: none was timed yet.
        best: The best mIoU so far (0..1), and its iteration.
        losses: `total` and each loss, weighted, of the last logged steps.
    """

    title: str
    share: float = 0.0
    reached: str = ""
    step_seconds: float = 0.0
    left: float | None = None
    unknown: bool = False
    best: tuple[float, int] | None = None
    losses: dict[str, deque[float]] = field(default_factory=dict)
    _at: float = 0.0

    def moved(self, share: float, reached: str, step_seconds: float, left: float, *, unknown: bool) -> None:
        """A step was taken."""
        self.share, self.reached, self.step_seconds, self.unknown = share, reached, step_seconds, unknown
        self.left, self._at = left, time.monotonic()

    def logged(self, weighted: Mapping[str, float]) -> None:
        """The losses of a logged step, in the order in which they are shown."""
        for name, value in {"total": sum(weighted.values()), **weighted}.items():
            self.losses.setdefault(name, deque(maxlen=_KEPT)).append(value)

    @property
    def time_left(self) -> str:
        """`0:12:05`, which runs on between steps; with a + where that is not all."""
        if self.left is None:
            return ""
        return clock(self.left - (time.monotonic() - self._at)) + "+" * self.unknown

    @property
    def note(self) -> str:
        """Losses and best mIoU in one line, for a log."""
        last = "  ".join(f"{name} {values[-1]:.3f}" for name, values in tuple(self.losses.items())[1:])
        return last + (f"  best mIoU {100 * self.best[0]:.2f}" if self.best is not None else "")

    def facts(self, width: int) -> str:
        """What does not fit at the end is left out."""
        parts = [f"{self.step_seconds:.3g} s/step"] if self.step_seconds else []
        if self.best is not None:
            parts.append(f"best mIoU {100 * self.best[0]:.2f} at iteration {self.best[1]}")
        while parts and len("   ".join(parts)) > width:
            parts.pop()
        return "   ".join(parts)

    def rows(self, width: int, *, drawn: bool = True) -> list[str]:
        """Every loss with its value and its course, in columns; none where there is no room for one.

        Args:
            drawn: The terminal has the characters that a course is drawn with.
        """
        losses = [(name, tuple(values)) for name, values in tuple(self.losses.items())]
        value_width = max([_VALUE, *(len(number(values[-1])) for _, values in losses)])
        name_width = min(_NAME, max((len(escape_control(name)) for name, _ in losses), default=0))
        least = name_width + 1 + value_width
        across = min(len(losses), (width + _GAP) // (least + _GAP))
        if not across:
            return []
        room = (width + _GAP) // across - _GAP - least - 1
        if drawn and room < 5 and across > 1:  # rather fewer beside each other, and a course to each
            across = max(1, (width + _GAP) // (least + 1 + 8 + _GAP))
            room = (width + _GAP) // across - _GAP - least - 1
        across = min(across, -(-len(losses) // -(-len(losses) // across)))  # rows of equal length
        room = min(_LINE, room) if drawn else 0
        cells = [
            f"{_short(name, name_width):<{name_width}} {number(values[-1]):>{value_width}}"
            + (f" {sparkline(values, room):<{room}}" if room >= 1 else "")
            for name, values in losses
        ]
        rows = [(" " * _GAP).join(cells[start : start + across]) for start in range(0, len(cells), across)]
        return rows[:_MOST_ROWS]


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values, one character each, from the lowest of them to the highest."""
    shown = [value for value in values if math.isfinite(value)][-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in shown)


def number(value: float) -> str:
    """Three decimals, or as many digits as fit."""
    return f"{value:.3f}" if 0.001 <= abs(value) < 10_000 or value == 0 else f"{value:.2e}"


def _short(name: str, width: int) -> str:
    text = escape_control(name)
    return text if len(text) <= width else text[:width]
