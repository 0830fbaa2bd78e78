"""Labels and numbers as tables, reports and messages show them.

Every function that takes text from outside replaces control characters by their escapes (`terminal.sanitize`). None of
them escapes HTML: the report's templates do that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rmrkd_cli.terminal.sanitize import escape_control

NONE = "–"  # for a value that is unknown or undefined
_MAX_LENGTH = 60  # characters of a label
_MAX_VALUE = 200  # characters of a value in a message
_MAX_FILE_NAME_LENGTH = 60  # characters of a file name made from a label


def shorten(text: object, max_length: int = _MAX_LENGTH) -> str:
    """Return the text on one line, with control characters escaped, in at most `max_length` characters.

    The last character of a shortened text is `…`.
    """
    line = escape_control(text)
    return line if len(line) <= max_length else f"{line[: max_length - 1]}…"


def shorten_value(text: object) -> str:
    """Return a value for a message, cut after 200 characters."""
    return shorten(text, _MAX_VALUE)


def abbreviate_labels(labels: Iterable[str], max_length: int) -> dict[str, str]:
    """Return each label in at most `max_length` characters, no two alike.

    Long labels lose their end, or their middle where that leaves more of them distinct. Where neither does, each
    label gets its number in front.
    """
    escaped = {label: escape_control(label) for label in labels}
    head = max_length // 3
    candidates = [
        {label: shorten(text, max_length) for label, text in escaped.items()},
        {label: _cut_middle(text, head, max_length - head - 1) for label, text in escaped.items()},
    ]
    best = max(candidates, key=lambda candidate: len(set(candidate.values())))
    if len(set(best.values())) == len(best):
        return best
    return {label: shorten(f"{number}: {text}", max_length) for number, (label, text) in enumerate(escaped.items(), 1)}


def _cut_middle(text: str, head: int, tail: int) -> str:
    return text if len(text) <= head + tail + 1 else f"{text[:head]}…{text[-tail:]}"


def format_percent(ratio: float | None, digits: int = 2) -> str:
    """Return a ratio (0..1) as percent without the sign: `0.3621` is `36.21`."""
    return NONE if ratio is None else f"{100 * ratio:.{digits}f}"


def format_points(difference: float | None, digits: int = 2) -> str:
    """Return a difference of two ratios (-1..1) in signed percentage points: `+3.10`, `-0.52`."""
    return NONE if difference is None else f"{100 * difference:+.{digits}f}"


def typeset_minus(text: str) -> str:
    """Replace hyphens that serve as minus signs by U+2212, for pages and figures. Not for terminals or CSV files."""
    return text.replace("-", "−")


def format_scaled(value: float | None, unit: str, size: float) -> str:
    """Return a value in a larger unit: `format_scaled(12_790_000, "M", 1e6)` is `12.79 M`."""
    return NONE if value is None else f"{value / size:.2f} {unit}"


def plural(count: int, word: str) -> str:
    """Return a count and its noun: `1 image`, `1,200 images`."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def join_and(words: Sequence[str]) -> str:
    """Return words as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def file_names(labels: Iterable[str]) -> dict[str, str]:
    """Return a part of a file name for each label: letters, digits, dots and dashes, unique regardless of case."""
    names: dict[str, str] = {}
    for label in labels:
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", label)[:_MAX_FILE_NAME_LENGTH].strip("-.") or "group"
        chosen, number = plain, 1
        taken = {other.lower() for other in names.values()}
        while chosen.lower() in taken:
            number += 1
            chosen = f"{plain}-{number}"
        names[label] = chosen
    return names
