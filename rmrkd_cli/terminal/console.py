"""The terminal: results to stdout, everything else to stderr. The only place that imports rich.

Every text is data: nothing in it is markup, and no control character of it reaches the terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.sanitize import CONTROL, escape, escape_control, escape_lines, install_output_guard
from rmrkd_cli.terminal.training_status import TrainingStatus

_FOLDED_OUTPUT = 160  # columns where stdout is a file or a pipe

_STATUS_WIDTH, _NAME_WIDTH = 7, 20  # columns
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}

_QUIET_SECONDS = 10  # between two lines of progress where stderr is no terminal
_REFRESHES = 4  # a second; each takes the steps a millisecond
_BAR = 30  # columns, at most
_COURSE = 79  # the same; what a terminal that is made narrower folds stays behind as rubbish

install_output_guard()
out = Console(width=None if sys.stdout.isatty() else _FOLDED_OUTPUT)
err = Console(stderr=True)


def say(text: str) -> None:
    """A message to the log; a terminal that is gone is no reason to end a run."""
    with suppress(OSError):
        err.print(Text(escape_lines(text)), highlight=False, soft_wrap=True)


def show_error(error: RmrkdError) -> None:
    """The message, and below it the hint."""
    with suppress(OSError):
        message = Text.assemble(("error:", "bold red"), " ", escape_lines(error.message))
        err.print(message, highlight=False, soft_wrap=True)
        if error.hint:
            hint = Text.assemble(("hint:", "bold"), " ", escape_lines(error.hint))
            err.print("", hint, sep="\n", highlight=False, soft_wrap=True)


def columns() -> int:
    """How wide stdout is."""
    return out.width


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    bold_last: bool = False,
) -> None:
    """A table on stdout; columns of figures are set to the right, the first is never broken."""
    table = Table(title=_text(title), title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        text = all(not any(character.isdigit() for character in row[number][:2]) for row in rows) and any(
            row[number] != "–" for row in rows
        )
        table.add_column(
            _text(column), justify="left" if number == 0 or text else "right", overflow="fold", no_wrap=number == 0
        )
    for number, row in enumerate(rows):
        last = bold_last and number == len(rows) - 1
        table.add_row(*(_text(cell) for cell in row), style="bold" if last else None)
    out.print(table)
    for note in notes:
        out.print(_text(note), highlight=False, soft_wrap=True)


def show_heading(text: str) -> None:
    heading = _text(text)
    heading.stylize("bold")
    out.print()
    out.print(heading, highlight=False, soft_wrap=True)


def show_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """What is to be said of a thing, a labelled line each, folded under itself; a label that repeats is shown once."""
    show_heading(title)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    before = ""
    for label, text in facts:
        grid.add_row(_text(label if label != before else ""), _text(text))
        before = label
    out.print(grid, highlight=False)


def show_check(status: str, name: str, found: str, expected: str, fix: str) -> None:
    """One line on stdout, folded under itself where it is long; a command to copy is left whole."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=_STATUS_WIDTH)
    grid.add_column(width=_NAME_WIDTH)
    grid.add_column(overflow="fold")
    label = _text(status)
    label.stylize(_STYLES.get(status, "none"))
    grid.add_row(label, _text(name), _text(found + (f"; expected: {expected}" if expected else "")))
    out.print(grid, highlight=False)
    if fix:
        out.print(_text(f"{' ' * (_STATUS_WIDTH + 2)}fix: {fix}"), highlight=False, soft_wrap=True)


def write(text: str) -> None:
    """A document on stdout; its own lines are kept, and YAML and JSON of ours have no other control characters."""
    shown = CONTROL.sub(lambda found: "\n" if found[0] == "\n" else escape(found[0]), text)
    sys.stdout.write(shown if shown.endswith("\n") else shown + "\n")


def write_line(text: str) -> None:
    """One line of results on stdout."""
    sys.stdout.write(escape_control(text) + "\n")


def _text(text: str) -> Text:
    shown = escape_control(text)
    if not out.encoding.startswith("utf"):
        shown = shown.replace("–", "-").replace("…", "...")
    return Text(shown)


class _Area(Progress):
    """Bars, and above them the course of the run they belong to."""

    @classmethod
    def get_default_columns(cls) -> tuple[ProgressColumn, ...]:
        return (
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        tasks = self.tasks
        for task in tasks:
            if "course" in task.fields:
                yield from _course_lines(task.fields["course"], min(_COURSE, self.console.width - 1))
        yield self.make_tasks_table([task for task in tasks if "course" not in task.fields])


def _course_lines(course: TrainingStatus, width: int) -> Iterator[RenderableType]:
    """A line of its own each, none longer than the terminal is wide, so that none is folded."""
    left = f"left {course.time_left}" if course.time_left else ""
    words = [escape_control(text) for text in (course.title, course.reached, left)]
    bar = min(_BAR, width - sum(len(word) + 2 for word in words))
    line = Table.grid(padding=(0, 2, 0, 0))
    cells: list[RenderableType] = [Text(words[0], style="bold")]
    cells += [ProgressBar(total=1.0, completed=course.share, width=bar)] if bar >= 5 else []
    line.add_row(*cells, *(Text(word, no_wrap=True) for word in words[1:]))
    yield line
    drawn = err.encoding.startswith("utf")
    for text in (course.facts(width - 2), *course.rows(width - 2, drawn=drawn)):
        if text:
            yield Text(f"  {text}", no_wrap=True, overflow="crop")


class Meter:
    """Progress of one loop: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, title: str, total: int, progress: Progress | None, done: int = 0) -> None:
        self.title = title
        self.total = total
        self.progress = progress
        self.task: TaskID | None = None
        if progress is not None:
            self.task = progress.add_task(escape_control(title), total=total, completed=done, note="")
        self._last = time.monotonic()
        self._note = ""

    def update(self, done: int, note: str = "") -> None:
        if self.progress is not None and self.task is not None:
            fields = {"note": escape_control(note)} if note else {}
            self.progress.update(self.task, completed=done, **fields)  # type: ignore[arg-type]
        else:
            self._note = note or self._note
            if time.monotonic() - self._last >= _QUIET_SECONDS:
                self._last = time.monotonic()
                say(f"{self.title} {done}/{self.total}  {self._note}".rstrip())

    def close(self) -> None:
        if self.progress is not None and self.task is not None:
            self.progress.remove_task(self.task)
        elif self._note:
            say(f"{self.title} {self.total}/{self.total}  {self._note}")


class TrainingProgress:
    """A training run's course: a live area on a terminal, a line now and then elsewhere."""

    def __init__(self, course: TrainingStatus, progress: Progress | None) -> None:
        self.course, self.progress = course, progress
        self.task = progress.add_task("", total=1.0, course=course, note="") if progress is not None else None
        self._last, self._told = time.monotonic(), ""

    def update(self) -> None:
        """The course has moved; a terminal looks at it by itself."""
        if self.progress is None and time.monotonic() - self._last >= _QUIET_SECONDS:
            self._last = time.monotonic()
            self._tell()

    def close(self) -> None:
        if self.progress is not None and self.task is not None:
            self.progress.remove_task(self.task)
        elif self.course.losses:
            self._tell()

    def _tell(self) -> None:
        course = self.course
        say(f"{course.title} {course.reached}  {course.note}".rstrip())


class Screen:
    """Hands out meters; silent on every worker but the first."""

    def __init__(self, progress: Progress | None, quiet: bool) -> None:
        self._progress = progress
        self.quiet = quiet

    def meter(self, title: str, total: int, done: int = 0) -> Meter | None:
        return None if self.quiet else Meter(title, total, self._progress, done)

    def course(self, course: TrainingStatus) -> TrainingProgress | None:
        return None if self.quiet else TrainingProgress(course, self._progress)

    def say(self, text: str) -> None:
        if not self.quiet:
            say(text)


@contextmanager
def screen(quiet: bool = False) -> Iterator[Screen]:
    """A live area on stderr where that is a terminal."""
    if quiet or not err.is_terminal:
        yield Screen(None, quiet)
        return
    progress = _Area(console=err, transient=True, refresh_per_second=_REFRESHES)
    progress.start()
    try:
        yield Screen(progress, quiet)
    finally:
        with suppress(OSError):  # the terminal may be what ended the run
            progress.stop()
