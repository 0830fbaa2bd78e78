"""Axes: from values to places, and round values to mark."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high`, onto places from `start` to `end`."""

    low: float
    high: float
    start: float = 0.0
    end: float = 100.0
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._of(self.low), self._of(self.high)
        if high == low:
            return (self.start + self.end) / 2
        return self.start + (self._of(value) - low) / (high - low) * (self.end - self.start)

    def _of(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    def ticks(self, count: int) -> list[float]:
        """Round values within, about `count` of them."""
        if self.log:
            return _decades(self.low, self.high)
        return [value for value in nice(self.low, self.high, count) if self.low <= value <= self.high]


def nice(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that enclose both."""
    if not math.isfinite(low) or not math.isfinite(high) or high <= low:
        return [low]
    rough = (high - low) / max(1, count)
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def around(values: Iterable[float], *, margin: float = 0.06, zero: bool = False) -> tuple[float, float]:
    """Bounds with some room; with zero where that is wanted."""
    held = [*values, *([0.0] if zero else [])]
    low, high = min(held, default=0.0), max(held, default=1.0)
    room = (high - low) * margin or abs(high) * margin or 0.01
    return low - room, high + room


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    few = (1, 2, 5) if last - first <= 2 else (1,)
    return [
        factor * 10.0**power
        for power in range(first, last + 1)
        for factor in few
        if low <= factor * 10.0**power <= high
    ]
