"""A thread that ends this process when another worker failed.

The main thread may wait for that worker in C++, as NCCL does, where neither a signal nor an exception reaches it. Gloo
notices a lost worker at once; the main thread then has a moment to end by itself.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from rmrkd_cli.errors import RmrkdError, WorkerLostError

_INTERVAL = 0.25  # seconds between two looks
_GRACE = 2.0  # seconds for the main thread to end by itself


class Watchdog:
    """Looks for an error of another worker, and for workers of this machine that died without one.

    Args:
        read_error: Returns the error of another worker, or None; called in the thread.
        peers: Returns rank -> process id of the other workers of this machine that still have work to do.
        on_failure: Called in the thread; must end the process.
    """

    def __init__(
        self,
        read_error: Callable[[], RmrkdError | None],
        peers: Callable[[], Mapping[int, int]],
        on_failure: Callable[[RmrkdError], object],
    ) -> None:
        self._read_error, self._peers, self._on_failure = read_error, peers, on_failure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; the main thread ends the process."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            error = self._read_error()
            lost = None if error else find_lost_peer(self._peers)
            if error or lost:
                if self._stop.wait(_GRACE):
                    return
                failure = error or self._read_error() or lost  # the error may have arrived after its worker's end
                assert failure is not None
                self._on_failure(failure)
                return


def find_lost_peer(peers: Callable[[], Mapping[int, int]]) -> RmrkdError | None:
    """Return the error of a worker of this machine that died, or None; see `Watchdog` for the argument."""
    for rank, pid in peers().items():
        if not is_running(pid) and rank in peers():  # it may just have finished
            return WorkerLostError(
                f"worker {rank} (process {pid}) was killed or crashed",
                "run the same command with --resume; if memory ran out, use fewer loader processes (--workers)",
            )
    return None


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended; a process that nobody waited for has ended."""
    if sys.platform == "linux":
        with suppress(OSError, IndexError):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
                return stream.read().rpartition(")")[2].split()[0] not in "ZX"
        if os.path.exists("/proc/self/stat"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
