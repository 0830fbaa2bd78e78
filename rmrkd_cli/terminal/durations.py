"""Read and write durations: `2h`, `1 h 05 min`, `0:12:05`."""

from __future__ import annotations

import re

from rmrkd_cli.terminal.text import NONE

_DURATION = re.compile(
    r"(?:(\d{1,9}(?:\.\d{1,9})?)h)?(?:(\d{1,9}(?:\.\d{1,9})?)m(?:in)?)?(?:(\d{1,9}(?:\.\d{1,9})?)s?)?"
)


def parse_duration(text: str) -> float:
    """Return the seconds of a text like `2h`, `90m`, `1h30m`, `45s` or `45`.

    Raises:
        ValueError: If the text has another form.
    """
    match = _DURATION.fullmatch("".join(text.split()).lower()) if text.isascii() else None
    if match is None or not any(match.groups()):
        raise ValueError("must be a time as 2h, 90m, 1h30m or 45s, or a number of seconds")
    return sum(float(part) * size for part, size in zip(match.groups(), (3600.0, 60.0, 1.0), strict=True) if part)


def format_duration(seconds: float | None) -> str:
    """Return `2 h`, `1 h 05 min`, `12 min 30 s`, `45 s` or `2.5 s`; a dash for None.

    Tenths of a second are shown below 10 s, seconds below 1 h.
    """
    if seconds is None:
        return NONE
    if seconds < 9.95 and round(seconds, 1) != round(seconds):
        return f"{seconds:.1f} s"
    rounded = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    hours, minutes, rest = rounded // 3600, rounded // 60 % 60, rounded % 60
    parts = ((hours, "h"), (minutes, "min")) if hours else ((minutes, "min"), (rest, "s"))
    (large, unit), (small, subunit) = parts
    if not large:
        return f"{small} {subunit}"
    return f"{large} {unit}" + (f" {small:02} {subunit}" if small else "")


def format_clock(seconds: float) -> str:
    """Return `0:12:05` for 725 seconds; negative times become `0:00:00`."""
    rounded = max(0, round(seconds))
    return f"{rounded // 3600}:{rounded // 60 % 60:02}:{rounded % 60:02}"
