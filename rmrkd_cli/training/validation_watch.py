"""Tell code around a training, such as `rmrkd tune`, of each validation while the training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_watchers: list[Callable[[int, float], None]] = []


@contextmanager
def watch_validations(watcher: Callable[[int, float], None]) -> Iterator[None]:
    """Call `watcher` with the iteration and the mIoU (0 to 1) of each validation in the block, in this process.

    The checkpoint of that iteration is saved before. What the watcher raises ends the training.
    """
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def report_validation(iteration: int, miou: float) -> None:
    """Call the watchers."""
    for watcher in _watchers:
        watcher(iteration, miou)
