"""Names and figures as reports write them: everything from elsewhere is made visible, and escaped in HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rmrkd_cli.terminal import durations
from rmrkd_cli.terminal.sanitize import escape_control

NONE = "–"
_LONGEST = 60  # characters of a name that are shown
_MOST_NAME = 60  # characters of a file's name that come from a label


def escaped(text: object) -> str:
    return html.escape(escape_control(text))


def short(text: object, longest: int = _LONGEST) -> str:
    """One line of visible characters, cut where it is long; not escaped."""
    shown = escape_control(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def abbreviate_labels(labels: Iterable[str], longest: int) -> dict[str, str]:
    """Labels cut to so many characters, at the end, or in the middle where that tells more of them apart."""
    whole = {label: escape_control(label) for label in labels}
    head = longest // 3
    ways = [
        {label: short(text, longest) for label, text in whole.items()},
        {label: _cut_within(text, head, longest - head - 1) for label, text in whole.items()},
    ]
    best = max(ways, key=lambda way: len(set(way.values())))
    if len(set(best.values())) == len(best):
        return best
    return {label: short(f"{number}: {text}", longest) for number, (label, text) in enumerate(whole.items(), 1)}


def _cut_within(text: str, head: int, tail: int) -> str:
    return text if len(text) <= head + tail + 1 else f"{text[:head]}…{text[-tail:]}"


def name(text: object) -> str:
    """A name as HTML, whose writing direction changes nothing around it; the whole of a long one is its title."""
    shown = escape_control(text)
    title = f' title="{html.escape(shown[:2000])}"' if len(shown) > _LONGEST else ""
    return f"<bdi{title}>{html.escape(short(shown))}</bdi>"


def percent(value: float | None, digits: int = 2) -> str:
    """A ratio as percent."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None, digits: int = 2) -> str:
    """A difference of ratios in percentage points, with its sign."""
    return NONE if value is None else signed(100 * value, digits)


def signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")


def scaled(value: float | None, unit: str, size: float) -> str:
    return NONE if value is None else f"{value / size:.2f} {unit}"


def size_of(count: float | None) -> str:
    """Bytes as MB."""
    return NONE if count is None else f"{count / 1e6:,.1f} MB"


def duration(seconds: float | None) -> str:
    return NONE if seconds is None else durations.duration(seconds)


def mean_of(records: Iterable[Mapping[str, Any]], get: Callable[[Mapping[str, Any]], float | None]) -> float | None:
    """Over the records that have it."""
    values = [value for record in records if (value := get(record)) is not None]
    return sum(values) / len(values) if values else None


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def file_names(labels: Iterable[str]) -> dict[str, str]:
    """For each label a part of a file's name: letters, digits, dots and dashes alone, none twice, case aside."""
    names: dict[str, str] = {}
    for label in labels:
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", label)[:_MOST_NAME].strip("-.") or "group"
        chosen, number = plain, 1
        taken = {other.lower() for other in names.values()}
        while chosen.lower() in taken:
            number += 1
            chosen = f"{plain}-{number}"
        names[label] = chosen
    return names
