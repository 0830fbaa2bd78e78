"""Stop signals: during a run its loop handles them as requests to stop; at other times they end the command."""

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

# Slurm's `--signal=USR1@90` sends SIGUSR1 before the time limit. A terminal that closes sends SIGHUP.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_EXIT_TIMEOUT = 5.0  # seconds
_END = b"\0"  # no signal has this number
_SHOW_CURSOR = b"\x1b[?25h"
_exit_signals: list[int] = []
_owners: list[int] = []  # ids of processes whose signals this package handles


def exit_code(signum: int) -> int:
    """Return 128 + signal, the shell's convention; SIGUSR1 announces SIGTERM and counts as SIGTERM."""
    return 128 + (signal.SIGTERM if signum == signal.SIGUSR1 else signum)


def handled_signals() -> list[signal.Signals]:
    """Return the signals of `STOP_SIGNALS`, without SIGHUP if `nohup` ignores it."""
    return [s for s in STOP_SIGNALS if s != signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]


def ignore_stop_signals() -> None:
    """Ignore stop signals in this process, for loader processes: their owner handles the signals."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def end_children() -> None:
    """Kill this process's multiprocessing children. At exit Python sends SIGTERM, which loader processes ignore."""
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()


def own_signals() -> None:
    """Let `stop_requests` set handlers in this process, which runs a command."""
    _owners[:] = [os.getpid()]


def exit_on_stop_signals(*, at_once: bool = False) -> None:
    """Let a stop signal end the process with its exit code, without a traceback.

    Args:
        at_once: Exit without unwinding the stack; for worker processes, which have nothing to clean up.
    """
    own_signals()
    for signum in handled_signals():
        signal.signal(signum, _exit_at_once if at_once else _exit)


class StopRequest:
    """A signal handler that records the first signal.

    Attributes:
        signum: The signal, 0 before one is received.
    """

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self, signum: int, _: FrameType | None) -> None:
        self.signum = self.signum or signum


@contextmanager
def stop_requests(*, ignore_repeats: bool = False) -> Iterator[StopRequest]:
    """Record stop signals instead of ending the process.

    In a program that only imports this package, such as a notebook, no handler is set: it decides what signals do.

    Args:
        ignore_repeats: Ignore further signals. Workers of a launcher can get one signal twice, from the scheduler
            and from the launcher; the launcher kills them after a timeout. Otherwise a second signal ends the process
            at once. Files stay valid, because each is written completely or not at all.
    """
    request = StopRequest()
    if _owners != [os.getpid()] or threading.current_thread() is not threading.main_thread():
        yield request
        return
    with preserve_handlers(), nullcontext() if ignore_repeats else _exit_at_second_signal():
        for signum in handled_signals():
            signal.signal(signum, request)
        yield request


@contextmanager
def _exit_at_second_signal() -> Iterator[None]:
    """Watch for signals in a thread.

    Python calls handlers only between two bytecode instructions of the main thread. A training step on a CPU can be
    one C++ call that takes minutes.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    _reset_wakeup_fd_in_children()
    watcher = threading.Thread(target=_watch, args=(read_end,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(write_end, _END)
        watcher.join()
        os.close(read_end)
        os.close(write_end)


def _watch(read_end: int) -> None:
    count = 0
    while (byte := os.read(read_end, 1)) != _END:
        count += byte[0] in STOP_SIGNALS
        if count > 1:
            _exit_at_once(byte[0], None)


@cache
def _reset_wakeup_fd_in_children() -> None:
    """Keep signals of forked children out of the parent's pipe, which they inherit."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


@contextmanager
def preserve_handlers() -> Iterator[None]:
    """Restore the current handlers of the stop signals at the end."""
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # in others nothing can have changed them
            for signum, handler in before.items():
                signal.signal(signum, handler)


def received_exit_signal() -> bool:
    """Return whether a signal ends this process already."""
    return bool(_exit_signals)


def _exit(signum: int, _: FrameType | None) -> NoReturn:
    _exit_signals.append(signum)
    with suppress(OSError):
        os.write(2, f"stopped by {signal.Signals(signum).name}\n".encode())
    # SystemExit is lost when it is raised in a destructor. `threading` may hold locks here, `_thread` needs none.
    _thread.start_new_thread(_exit_after_timeout, (signum,))
    raise SystemExit(exit_code(signum))


def _exit_after_timeout(signum: int) -> None:
    time.sleep(_EXIT_TIMEOUT)
    _exit_at_once(signum, None)


def _exit_at_once(signum: int, _: FrameType | None) -> NoReturn:
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)  # a progress bar hides it
    os._exit(exit_code(signum))
