"""Lengths of time, as people write them."""

from __future__ import annotations

import re

_FORM = re.compile(r"(?:(\d{1,9}(?:\.\d{1,9})?)h)?(?:(\d{1,9}(?:\.\d{1,9})?)m(?:in)?)?(?:(\d{1,9}(?:\.\d{1,9})?)s?)?")


def parse_duration(text: str) -> float:
    """Seconds in `2h`, `90m`, `1h30m`, `45s`, or plain seconds.

    Raises:
        ValueError: When it is none of these.
    """
    found = _FORM.fullmatch("".join(text.split()).lower()) if text.isascii() else None
    if found is None or not any(found.groups()):
        raise ValueError("must be a time as 2h, 90m, 1h30m or 45s, or a number of seconds")
    return sum(float(part) * size for part, size in zip(found.groups(), (3600.0, 60.0, 1.0), strict=True) if part)


def duration(seconds: float) -> str:
    """`2 h`, `1 h 05 min`, `12 min 30 s`, `45 s`; parts of a second only below ten."""
    if seconds < 9.95 and round(seconds, 1) != round(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    parts = ((hours, "h"), (minutes, "min")) if hours else ((minutes, "min"), (rest, "s"))
    (large, unit), (small, subunit) = parts
    if not large:
        return f"{small} {subunit}"
    return f"{large} {unit}" + (f" {small:02} {subunit}" if small else "")


def clock(seconds: float) -> str:
    """`0:12:05`, as a clock shows it."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
