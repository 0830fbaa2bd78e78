"""Show progress: as bars if the command line runs in a terminal, otherwise as a message every ten seconds.

A function of the caller (`terminal.progress`) gets every update.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from rich.columns import Columns
from rich.console import RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from rmrkd_cli.terminal import messages
from rmrkd_cli.terminal.progress import ProgressUpdate, report_progress
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.terminal.training_status import SPARKLINE_WIDTH, TrainingStatus, format_loss, sparkline

_LINE_INTERVAL = 10  # seconds between two lines where stderr is not a terminal
_REFRESHES = 4  # a second; each takes the training loop about a millisecond
_MAX_WIDTH = 79  # columns; a terminal that is made narrower wraps longer lines, and rich cannot erase those
_MAX_LOSSES = 9
_LOSS_NAME_WIDTH = 12  # columns


class ProgressBar:
    """Progress of one loop."""

    def __init__(self, title: str, total: int, progress: Progress | None) -> None:
        self._title, self._total, self._progress = title, total, progress
        self._task = progress.add_task(escape_control(title), total=total) if progress is not None else None
        self._last_line = time.monotonic()

    def update(self, done: int) -> None:
        """Show that `done` of all items are done."""
        report_progress(lambda: ProgressUpdate(self._title, done / max(1, self._total), f"{done}/{self._total}"))
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done)
        elif time.monotonic() - self._last_line >= _LINE_INTERVAL:
            self._last_line = time.monotonic()
            messages.log(f"{self._title} {done}/{self._total}")

    def close(self) -> None:
        """Remove the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)


class TrainingProgress:
    """Progress of a training run: position, time left, speed, best mIoU and losses.

    Args:
        status: Changed by the run; a terminal shows it several times a second.
    """

    def __init__(self, status: TrainingStatus, progress: Progress | None) -> None:
        self._status, self._progress = status, progress
        self._task = progress.add_task(escape_control(status.title), total=1.0, status=status) if progress else None
        self._last_line = time.monotonic()

    def update(self) -> None:
        """Show the changed status."""
        report_progress(self._status.progress_update)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._status.fraction_done)
        elif time.monotonic() - self._last_line >= _LINE_INTERVAL:
            self._last_line = time.monotonic()
            messages.log(self._status.log_line)

    def close(self) -> None:
        """Remove the display, or print the last line."""
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
        elif self._status.losses:
            messages.log(self._status.log_line)


class LiveDisplay:
    """Makes progress bars and prints messages above them; does nothing if `quiet`, as on all ranks but the first."""

    def __init__(self, progress: Progress | None, quiet: bool) -> None:
        self._progress = progress
        self.quiet = quiet

    def progress_bar(self, title: str, total: int) -> ProgressBar | None:
        """Add a bar for a loop over `total` items."""
        return None if self.quiet else ProgressBar(title, total, self._progress)

    def training_progress(self, status: TrainingStatus) -> TrainingProgress | None:
        """Add the display of a training run."""
        return None if self.quiet else TrainingProgress(status, self._progress)

    def log(self, text: str) -> None:
        """Print a message above the bars."""
        if not self.quiet:
            messages.log(text)


@contextmanager
def live_display(quiet: bool = False) -> Iterator[LiveDisplay]:
    """Show bars at the bottom of the terminal until the block ends."""
    if quiet or not messages.SHOWN.progress or not messages.err.is_terminal:
        yield LiveDisplay(None, quiet)
        return
    progress = _Progress(console=messages.err, transient=True, refresh_per_second=_REFRESHES)
    progress.start()
    try:
        yield LiveDisplay(progress, quiet)
    finally:
        with suppress(OSError):  # the terminal may be closed, and that may be why the run ends
            progress.stop()


class _Progress(Progress):
    """Bars, and below them speed, best mIoU and losses of the training run."""

    @classmethod
    def get_default_columns(cls) -> tuple[ProgressColumn, ...]:
        return TextColumn("{task.description}", style="bold", markup=False), BarColumn(24), _Position(), _TimeLeft()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if "status" in task.fields:
                details = training_details(task.fields["status"], ascii_only=self.console.options.ascii_only)
                yield from (Constrain(Padding(part, (0, 0, 0, 2)), _MAX_WIDTH) for part in details)


class _Position(ProgressColumn):
    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        status: TrainingStatus | None = task.fields.get("status")
        text = status.position if status is not None else f"{task.completed:.0f}/{task.total or 0:.0f}"
        return Text(escape_control(text), style="progress.download")


class _TimeLeft(TimeRemainingColumn):
    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        if "status" not in task.fields:
            return super().render(task)
        left = task.fields["status"].time_left
        return Text(f"left {left}" if left else "", style="progress.remaining")


def training_details(status: TrainingStatus, *, ascii_only: bool) -> Iterator[RenderableType]:
    """Yield a line with speed and best mIoU, and the losses in columns: name, value, and course as a sparkline."""
    if status.speed_and_best:
        yield Text(status.speed_and_best, no_wrap=True, overflow="ellipsis")
    losses = [(escape_control(name), tuple(values)) for name, values in tuple(status.losses.items())[:_MAX_LOSSES]]
    width = min(_LOSS_NAME_WIDTH, max((len(name) for name, _ in losses), default=0))
    cells = []
    for name, values in losses:
        course = "" if ascii_only else f" {sparkline(values, SPARKLINE_WIDTH):<{SPARKLINE_WIDTH}}"
        text = f"{name[:width]:<{width}} {format_loss(values[-1]):>6}{course}"
        cells.append(Text(text, no_wrap=True, overflow="crop"))
    if cells:
        yield Columns(cells, padding=(0, 2))
