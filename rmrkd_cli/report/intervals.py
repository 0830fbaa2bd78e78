"""Confidence intervals as text."""

from __future__ import annotations

from rmrkd_cli.comparison.types import Interval
from rmrkd_cli.terminal.text import points


def between(interval: Interval) -> str:
    """`+3.10 to +6.94`; empty where there is no interval."""
    if interval.low is None or interval.high is None:
        return ""
    return f"{points(interval.low)} to {points(interval.high)}"
