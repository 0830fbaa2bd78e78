"""Run calls one after the other in a thread, so that training does not wait for a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Background:
    """A thread that runs calls in order. After an error it skips all but the last call."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], object], bool]] = SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], object]) -> None:
        """Run a call later.

        Raises:
            Exception: The error of an earlier call.
        """
        if self._error is not None:
            raise self._error
        self._calls.put((call, False))

    def close(self, last: Callable[[], object], seconds: float) -> None:
        """Run a last call after all others, also after an error, and wait for it; with 0 seconds do not wait.

        Raises:
            TimeoutError: It has not ended in time. The thread continues until the process ends.
            Exception: The error of a call.
        """
        self._calls.put((last, True))
        self._thread.join(seconds)
        if seconds and self._thread.is_alive():
            raise TimeoutError(f"not everything was received within {seconds:.0f} s")
        if seconds and self._error is not None:
            raise self._error

    def _work(self) -> None:
        is_last = False
        while not is_last:
            call, is_last = self._calls.get()
            if self._error is not None and not is_last:
                continue
            try:
                call()
            except Exception as error:
                self._error = self._error or error
