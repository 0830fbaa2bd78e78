"""How far a long task has come, for a function of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProgressUpdate:
    """How far a task has come.

    Attributes:
        task: "teacher", "baseline" or "distill" for a training; "validation", "images" and others for a loop.
        fraction: From 0 to 1.
        position: The same as text: `12/300`.
        losses: `total` and each weighted loss of the last logged step; empty for loops.
        best_miou: 0..1, and None before the first validation.
        seconds_left: None where nothing is known.
    """

    task: str
    fraction: float
    position: str
    losses: Mapping[str, float] = field(default_factory=dict)
    best_miou: float | None = None
    seconds_left: float | None = None


Callback = Callable[[ProgressUpdate], object]
_callback: ContextVar[Callback | None] = ContextVar("callback", default=None)


@contextmanager
def progress_to(callback: Callback | None) -> Iterator[None]:
    """Call a function after each step of the long tasks in the block; None for no function.

    What it raises ends the task.
    """
    token = _callback.set(callback)
    try:
        yield
    finally:
        _callback.reset(token)


def report_progress(make: Callable[[], ProgressUpdate]) -> None:
    """Give the caller's function an update, which is made only if there is one."""
    callback = _callback.get()
    if callback is not None:
        callback(make())
