"""Text from strangers: what a terminal would act on instead of showing it is made visible."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from typing import Any

# C0, DEL, C1, soft hyphen, marks and overrides of the writing direction, invisible ones, line separators, lone
# surrogates, annotations and tags.
_RANGES = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f"
)
CONTROL = re.compile(f"[{_RANGES}]")
_JOINERS = "\u200c\u200d"  # which Persian and Hindi are written with


def escape_control(text: object) -> str:
    """One line: every control, direction and invisible character as its escape, line breaks too."""
    return CONTROL.sub(lambda found: escape(found[0]), str(text))


def escape_lines(text: object) -> str:
    """A message of ours: one line, or several of which the first announces the others, and those are indented.

    Any other line break is of a name in the message, as is one between backticks.
    """
    first, *others = str(text).split("\n")
    shown, announced, quoted = escape_control(first), first.endswith((":", " as", ", expected")), first.count("`") % 2
    for line in others:
        meant = announced and line.startswith("  ") and not quoted
        shown += ("\n" if meant else r"\n") + escape_control(line)
        quoted = (quoted + line.count("`")) % 2
    return shown


def escape(character: str) -> str:
    r"""`\x1b`, `\u202e`, `\n`."""
    return character.encode("unicode_escape").decode("ascii")


def first_control(text: str) -> str | None:
    """The first character that no name or title may hold, as its code point."""
    found = next((character for character in CONTROL.findall(text) if character not in _JOINERS), None)
    return None if found is None else f"U+{ord(found):04X}"


def install_output_guard() -> None:
    """Warnings and logs of other packages pass here as well, and what the terminal cannot encode is escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    if logging.lastResort is not None:  # where a package logs that set up no logging
        logging.lastResort.setFormatter(_VisibleFormatter())


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape_control(record.getMessage())


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    stream = file if file is not None else sys.stderr
    if stream is not None:
        stream.write(f"{escape_control(filename)}:{lineno}: {category.__name__}: {escape_control(message)}\n")
