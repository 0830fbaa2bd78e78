"""Print results to stdout, and errors to stderr.

Every text is data: rich markup in it is not interpreted, and its control characters are escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.messages import err
from rmrkd_cli.terminal.sanitize import escape_control, escape_message
from rmrkd_cli.terminal.text import NONE

_REDIRECTED_WIDTH = 160  # columns if stdout is a file or a pipe
_STATUS_WIDTH, _NAME_WIDTH = 7, 20  # columns
_CELL_BORDER = 3  # columns between two cells of a table, which also has one at its edge
_STATUS_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}

out = Console(width=None if sys.stdout.isatty() else _REDIRECTED_WIDTH)


def print_error(error: RmrkdError) -> None:
    """Print an error's message and its hint to stderr, with an empty line between them."""
    with suppress(OSError):
        message = Text.assemble(("error:", "bold red"), " ", escape_message(error.message))
        err.print(message, highlight=False, soft_wrap=True)
        if error.hint:
            hint = Text.assemble(("hint:", "bold"), " ", escape_message(error.hint))
            err.print("", hint, sep="\n", highlight=False, soft_wrap=True)


def print_text(text: str) -> None:
    """Print a document such as YAML or JSON to stdout, with its own line breaks."""
    escaped = escape_control(text, keep="\n")
    sys.stdout.write(escaped if escaped.endswith("\n") else escaped + "\n")


def print_line(text: str) -> None:
    """Print one line of results to stdout, at once: a pipe or file would otherwise get it at the end."""
    sys.stdout.write(escape_control(text) + "\n")
    sys.stdout.flush()


def print_heading(text: str) -> None:
    """Print an empty line and a bold line to stdout."""
    heading = _plain(text)
    heading.stylize("bold")
    out.print()
    out.print(heading, highlight=False, soft_wrap=True)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    bold_last: bool = False,
) -> None:
    """Print a table to stdout.

    Columns of numbers are aligned to the right. The first column is never wrapped.

    Args:
        notes: Lines below the table.
        bold_last: Print the last row in bold.
    """
    table = Table(
        title=_plain(title) if title else None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
    )
    for index, column in enumerate(columns):
        left = index == 0 or not _holds_numbers([row[index] for row in rows])
        table.add_column(
            _plain(column), justify="left" if left else "right", overflow="fold", no_wrap=index == 0
        )  # fmt: skip
    for index, row in enumerate(rows):
        bold = bold_last and index == len(rows) - 1
        table.add_row(*(_plain(cell) for cell in row), style="bold" if bold else None)
    out.print(table)
    for note in notes:
        out.print(_plain(note), highlight=False, soft_wrap=True)


def print_numbers(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    bold_last: bool = False,
) -> None:
    """Print a table of numbers to stdout; see `print_table`.

    A table that is wider than the terminal is split into blocks of columns, each with the first column, because a
    number that continues on the next line cannot be read.
    """
    blocks = list(_split_columns([columns, *rows], out.width))
    for number, chosen in enumerate(blocks, 1):
        part = [[row[index] for index in chosen] for row in rows]
        below = notes if number == len(blocks) else ()
        print_table(title if number == 1 else "", [columns[index] for index in chosen], part, below, bold_last)


def _split_columns(rows: Sequence[Sequence[str]], width: int) -> Iterator[list[int]]:
    """Yield the columns of each block; a column that is wider than the terminal is alone with the first."""
    first, *others = [
        max(map(cell_len, map(escape_control, column))) + _CELL_BORDER for column in zip(*rows, strict=True)
    ]
    block, used = [0], first
    for index, needed in enumerate(others, 1):
        if len(block) > 1 and used + needed >= width:
            yield block
            block, used = [0], first
        block.append(index)
        used += needed
    yield block


def print_fields(title: str, fields: Sequence[tuple[str, str]]) -> None:
    """Print a heading and one labelled line for each field to stdout; a repeated label is printed once."""
    print_heading(title)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    previous = ""
    for label, text in fields:
        grid.add_row(_plain(label if label != previous else ""), _plain(text))
        previous = label
    out.print(grid, highlight=False)


def print_check(status: str, name: str, found: str, expected: str, fix: str) -> None:
    """Print one check of `rmrkd doctor` to stdout: status, name, and what was found.

    Args:
        expected: Printed after `found` unless empty.
        fix: Printed on a separate line that is not wrapped, so that a command in it can be copied.
    """
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=_STATUS_WIDTH)
    grid.add_column(width=_NAME_WIDTH)
    grid.add_column(overflow="fold")
    label = _plain(status)
    label.stylize(_STATUS_STYLES.get(status, "none"))
    grid.add_row(label, _plain(name), _plain(found + (f"; expected: {expected}" if expected else "")))
    out.print(grid, highlight=False)
    if fix:
        out.print(_plain(f"{' ' * (_STATUS_WIDTH + 2)}fix: {fix}"), highlight=False, soft_wrap=True)


def terminal_width() -> int:
    """Return the columns of stdout."""
    return out.width


def _holds_numbers(cells: Sequence[str]) -> bool:
    """Return whether any cell begins with a number, a sign before it allowed, or all are dashes."""
    return any(any(character.isdigit() for character in cell[:2]) for cell in cells) or all(
        cell == NONE for cell in cells
    )


def _plain(text: str) -> Text:
    escaped = escape_control(text)
    if not out.encoding.startswith("utf"):
        escaped = escaped.replace(NONE, "-").replace("…", "...")
    return Text(escaped)
