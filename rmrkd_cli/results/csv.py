"""Tables as CSV, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import re

from rmrkd_cli.terminal.sanitize import escape_control

Table = tuple[list[str], list[list[str]]]


def to_csv(table: Table) -> str:
    """A table as CSV, with a defence against cells that a spreadsheet would run."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns, rows = table
    for row in (columns, *rows):
        writer.writerow([_csv_cell(cell) for cell in row])
    return stream.getvalue()


def _csv_cell(text: str) -> str:
    """A figure as it is; a name so that no spreadsheet runs it."""
    shown = escape_control(text)
    return f"'{shown}" if shown[:1] in _FORMULA and not _FIGURE.fullmatch(shown) else shown


_FORMULA = tuple("=+-@")  # and tab and CR, which are visible by then


_FIGURE = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
