"""Differences and their confidence intervals as text."""

from __future__ import annotations

from rmrkd_cli.comparison.types import Interval
from rmrkd_cli.terminal.text import format_points


def interval_text(interval: Interval) -> str:
    """Return a difference in points with its interval: `+5.02 [+3.10, +6.94]`."""
    bounds = bounds_text(interval, ", ")
    return format_points(interval.value) + (f" [{bounds}]" if bounds else "")


def bounds_text(interval: Interval, separator: str = " to ") -> str:
    """Return the bounds in points: `+3.10 to +6.94`. Empty where no interval is known."""
    if interval.low is None or interval.high is None:
        return ""
    return f"{format_points(interval.low)}{separator}{format_points(interval.high)}"
