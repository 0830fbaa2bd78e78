"""Tables as CSV that a spreadsheet can open without running a cell as a formula."""

from __future__ import annotations

import csv
import io
import re

from rmrkd_cli.terminal.sanitize import escape_control

Table = tuple[list[str], list[list[str]]]  # column headings, rows

_FORMULA_START = tuple("=+-@")  # spreadsheets also accept tab and CR, which are escaped before
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def to_csv(table: Table) -> str:
    """Return a table as CSV. Text that looks like a formula gets a quote in front."""
    stream = io.StringIO()
    columns, rows = table
    csv.writer(stream, lineterminator="\n").writerows([map(_cell, row) for row in (columns, *rows)])
    return stream.getvalue()


def _cell(text: str) -> str:
    line = escape_control(text)
    return f"'{line}" if line.startswith(_FORMULA_START) and not _NUMBER.fullmatch(line) else line
