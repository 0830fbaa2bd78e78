"""SIGINT and SIGTERM become a request that the loop meets at its next step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """The first signal met, 0 before; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.signum = signum


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches the signals for the time of a run."""
    request = StopRequest()
    before = {signum: signal.signal(signum, request) for signum in _SIGNALS}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
