"""The TCPStore through which processes on several machines agree: open it, or connect to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rmrkd_cli.errors import RmrkdError, RunError, summarize_error
from rmrkd_cli.terminal.durations import format_duration

JOIN_SECONDS = 1800  # how long machines wait for each other
_RETRY_SECONDS = 0.2
_REPLY_TIMEOUT = timedelta(seconds=60)  # of a store that accepts connections


def open_store(host: str, port: int, name: str, hint: str, *, multi_tenant: bool = False) -> Any:
    """Open a store in this process; return a connection to it.

    Args:
        name: What the error calls the address.
        multi_tenant: Another store of this process may have the same port.

    Raises:
        RmrkdError: When the port cannot be opened.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(
            host, port, is_master=True, multi_tenant=multi_tenant, wait_for_workers=False, timeout=_REPLY_TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        raise RmrkdError(f"cannot listen on {name}: {summarize_error(error)}", hint) from error


def connect_store(
    host: str, port: int, hint: str, on_wait: Callable[[], object] = lambda: None, *, seconds: float = JOIN_SECONDS
) -> Any:
    """Return a connection to a store, when its port is open.

    Args:
        on_wait: Called between two attempts.

    Raises:
        RunError: When it does not open within these seconds.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    _wait_for_port(host, port, hint, on_wait, seconds)
    return TCPStore(host, port, is_master=False, timeout=_REPLY_TIMEOUT)


def _wait_for_port(host: str, port: int, hint: str, on_wait: Callable[[], object], seconds: float) -> None:
    """Wait until the port accepts connections. TCPStore waits too, but in C++, where no signal ends it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"the first machine did not open {host}:{port} within {format_duration(seconds)}: {error}",
                    hint,
                ) from error
        on_wait()
        time.sleep(_RETRY_SECONDS)
