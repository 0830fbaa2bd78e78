"""Signals: while a run goes on they are requests that its loop meets; at other times they end the command quietly."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from types import FrameType
from typing import NoReturn

# SIGUSR1 is what Slurm's `--signal=USR1@90` sends before the time is up, SIGHUP comes from a terminal that went away.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_PATIENCE = 5.0  # seconds
_DONE = b"\0"  # no signal has this number
_SHOW_CURSOR = b"\x1b[?25h"


def exit_code(signum: int) -> int:
    """128 + signal, as shells count; SIGUSR1 announces SIGTERM and counts as it."""
    return 128 + (signal.SIGTERM if signum == signal.SIGUSR1 else signum)


def handled_signals() -> list[signal.Signals]:
    """All of `STOPS`, but not SIGHUP where `nohup` asked to ignore it."""
    return [s for s in STOPS if s != signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]


def ignore_stops() -> None:
    """For loader processes: what a signal means is decided by the process that owns them."""
    for signum in STOPS:
        signal.signal(signum, signal.SIG_IGN)


def end_children() -> None:
    """Python waits for its processes when it ends, after a SIGTERM that those which read images ignore."""
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()


def exit_on_stops(*, at_once: bool = False) -> None:
    """A signal ends the process with its exit code and without a traceback.

    Args:
        at_once: Without unwinding; for worker processes, which own nothing that must be cleaned up.
    """
    for signum in handled_signals():
        signal.signal(signum, _leave_at_once if at_once else _leave)


class StopRequest:
    """The first signal met, 0 before."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self, signum: int, _: FrameType | None) -> None:
        self.signum = self.signum or signum


@contextmanager
def stop_requests(*, patient: bool = False) -> Iterator[StopRequest]:
    """Catches the signals for the time of a run.

    Args:
        patient: Further signals change nothing: under a launcher the same signal can come twice (from a scheduler and
            from the launcher), and the launcher decides when waiting is over. Otherwise the second one ends the
            process at once; files are written whole or not at all, so that none is harmed.
    """
    request = StopRequest()
    with restore_default_handlers(), nullcontext() if patient else _leaving_at_the_second():
        for signum in handled_signals():
            signal.signal(signum, request)
        yield request


@contextmanager
def _leaving_at_the_second() -> Iterator[None]:
    """Watches for signals in a thread: Python calls handlers only between two steps of the main thread's code, and a
    step of training on a CPU can be one call that lasts for minutes."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _forget_in_children()
    watcher = threading.Thread(target=_watch, args=(reading,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, _DONE)
        watcher.join()
        os.close(reading)
        os.close(writing)


def _watch(reading: int) -> None:
    met = 0
    while (byte := os.read(reading, 1)) != _DONE:
        met += byte[0] in STOPS
        if met > 1:
            _leave_at_once(byte[0], None)


@cache
def _forget_in_children() -> None:
    """What a forked child meets is no signal to its parent, whose pipe it inherits."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


@contextmanager
def restore_default_handlers() -> Iterator[None]:
    """Puts the handlers back that were there before."""
    before = {signum: signal.getsignal(signum) for signum in STOPS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _leave(signum: int, _: FrameType | None) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"stopped by {signal.Signals(signum).name}\n".encode())
    # an exception can be lost where it happens to be raised, as in a destructor; threading's locks may be held here
    _thread.start_new_thread(_leave_later, (signum,))
    raise SystemExit(exit_code(signum))


def _leave_later(signum: int) -> None:
    time.sleep(_PATIENCE)
    _leave_at_once(signum, None)


def _leave_at_once(signum: int, _: FrameType | None) -> NoReturn:
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)  # a progress bar hides it
    os._exit(exit_code(signum))
