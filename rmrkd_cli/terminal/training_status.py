"""The state of a training run that its progress display shows."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rmrkd_cli.terminal.durations import format_clock
from rmrkd_cli.terminal.progress import ProgressUpdate

_BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 8  # logged steps


@dataclass
class TrainingStatus:
    """Progress, time and losses of a run.

    Attributes:
        title: The role that is trained.
        fraction_done: From 0 to 1.
        position: The same as text, `12/300`.
        step_seconds: Duration of a step; 0 before the first.
        seconds_left: Time to the end of the run; None before the first step.
        evaluation_time_unknown: `seconds_left` does not include the evaluations, because none was timed yet.
        best: The best mIoU (0..1) and its iteration.
        losses: `total` and each weighted loss, at the last eight logged steps.
    """

    title: str
    fraction_done: float = 0.0
    position: str = ""
    step_seconds: float = 0.0
    seconds_left: float | None = None
    evaluation_time_unknown: bool = False
    best: tuple[float, int] | None = None
    losses: dict[str, deque[float]] = field(default_factory=dict)
    _updated_at: float = 0.0

    def update(
        self,
        fraction_done: float,
        position: str,
        step_seconds: float,
        seconds_left: float,
        *,
        evaluation_time_unknown: bool,
    ) -> None:
        """Set the progress after a step."""
        self.fraction_done, self.position, self.step_seconds = fraction_done, position, step_seconds
        self.seconds_left, self.evaluation_time_unknown = seconds_left, evaluation_time_unknown
        self._updated_at = time.monotonic()

    def add_losses(self, weighted: Mapping[str, float]) -> None:
        """Add the weighted losses of a logged step, in the order of the display."""
        for name, value in {"total": sum(weighted.values()), **weighted}.items():
            self.losses.setdefault(name, deque(maxlen=SPARKLINE_WIDTH)).append(value)

    def progress_update(self) -> ProgressUpdate:
        """Return the status for a function of the caller."""
        losses = {name: values[-1] for name, values in self.losses.items()}
        best = self.best[0] if self.best is not None else None
        return ProgressUpdate(self.title, self.fraction_done, self.position, losses, best, self.seconds_left)

    @property
    def time_left(self) -> str:
        """`0:12:05`, counted down between steps; `0:12:05+` if evaluations come on top."""
        if self.seconds_left is None:
            return ""
        return format_clock(self.seconds_left - (time.monotonic() - self._updated_at)) + (
            "+" if self.evaluation_time_unknown else ""
        )

    @property
    def speed_and_best(self) -> str:
        """`0.146 s/step   best mIoU 36.55 at iteration 200`."""
        parts = [f"{self.step_seconds:.3g} s/step"] if self.step_seconds else []
        if self.best is not None:
            parts.append(f"best mIoU {100 * self.best[0]:.2f} at iteration {self.best[1]}")
        return "   ".join(parts)

    @property
    def log_line(self) -> str:
        """Position, losses and best mIoU in one line, for a log."""
        parts = [f"{self.title} {self.position}"]
        parts += [f"{name} {values[-1]:.3f}" for name, values in tuple(self.losses.items())[1:]]
        if self.best is not None:
            parts.append(f"best mIoU {100 * self.best[0]:.2f}")
        return "  ".join(parts)


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last `width` finite values as bars, one character each, scaled from the lowest to the highest."""
    shown = [value for value in values if math.isfinite(value)][-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in shown)


def format_loss(value: float) -> str:
    """Return the value with three decimals, or as `1.50e+06` if that does not fit nine characters."""
    return f"{value:.3f}" if 0.001 <= abs(value) < 10_000 or value == 0 else f"{value:.2e}"
