"""Escape characters that a terminal acts on or hides, in text from files, arguments and other packages."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from typing import Any

# C0, DEL, C1, soft hyphen, direction marks and overrides, invisible characters, line separators, lone surrogates,
# annotations and tags.
_RANGES = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f"
)
CONTROL = re.compile(f"[{_RANGES}]")
_JOINERS = "\u200c\u200d"  # Persian and Hindi are written with them


def escape_control(text: object, keep: str = "") -> str:
    r"""Return the text with each control, direction and invisible character as its escape: `\x1b`, `\u202e`, `\n`.

    Args:
        keep: Characters that are not escaped.
    """
    return CONTROL.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), str(text))


def escape_message(text: object) -> str:
    """Return a message with its control characters escaped.

    A line break is kept if two spaces follow. So a name in the message can begin a line only if the line is indented,
    and never a line that looks like a new message.
    """
    return "\n  ".join(escape_control(part) for part in str(text).split("\n  "))


def first_control(text: str) -> str | None:
    """Return the first character that names and titles must not contain, as `U+001B`, or None."""
    match = next((character for character in CONTROL.findall(text) if character not in _JOINERS), None)
    return None if match is None else f"U+{ord(match):04X}"


def install_output_guard() -> None:
    """Escape warnings and log records of other packages, and characters that the terminal cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    if logging.lastResort is not None:  # prints records of packages that set up no logging
        logging.lastResort.setFormatter(_EscapingFormatter())


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class _EscapingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape_control(record.getMessage())


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    stream = file if file is not None else sys.stderr
    if stream is not None:
        stream.write(f"{escape_control(filename)}:{lineno}: {category.__name__}: {escape_control(message)}\n")
