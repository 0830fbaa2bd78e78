"""The rendezvous: where the launchers of a run's machines connect, and the number of the current attempt."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError, RunError, summarize_error
from rmrkd_cli.terminal.console import log

JOIN_SECONDS = 1800  # how long machines wait for each other
_RETRY_SECONDS = 0.2
_REPLY_TIMEOUT = timedelta(seconds=60)  # of a store that accepts connections


class LocalRendezvous:
    """The rendezvous of a single machine.

    Attributes:
        endpoint: HOST:PORT for torch's launcher.
        token: Identifies this start of the run, so that files of an earlier start are not read.
    """

    endpoint = "localhost:0"

    def __init__(self) -> None:
        self.token = os.urandom(4).hex()
        self._attempt = 0

    def attempt(self) -> int:
        """Return the number of the current attempt, from 0; a restarted machine joins the others in it."""
        return self._attempt

    def advance(self, attempt: int) -> None:
        """Start the attempt after the given one; if several machines call this, it counts once."""
        self._attempt = max(self._attempt, attempt + 1)

    def reconnect(self) -> None:
        """Connect again after the connection was lost."""


class TcpRendezvous(LocalRendezvous):
    """The rendezvous of several machines: a TCPStore in the launcher of the first machine.

    Args:
        job_name: The same on every machine.

    Raises:
        RmrkdError: When the first machine cannot open its port.
        RunError: When the first machine does not open its port in time.
    """

    def __init__(self, cluster: Cluster, job_name: str) -> None:
        super().__init__()
        self.cluster, self.job_name = cluster, job_name
        self.endpoint = str(cluster.rdzv_endpoint)
        self._store: Any = None
        self.reconnect()

    def attempt(self) -> int:
        return int(self._store.add(f"{self.job_name}/attempt", 0))

    def advance(self, attempt: int) -> None:
        if self._store.add(f"{self.job_name}/over/{attempt}", 1) == 1:
            self._store.add(f"{self.job_name}/attempt", 1)
        while self.attempt() == attempt:  # another machine was first, and has not counted yet
            time.sleep(0.01)

    def reconnect(self) -> None:
        if self.cluster.is_first_node:
            if self._store is None:
                self._open_store()
            return
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host, port = self.cluster.rdzv_address
        self._store = None
        wait_for_port(host, port, "start the same command there with --node-rank 0, and open the port in its firewall")
        self._store = TCPStore(host, port, is_master=False, timeout=_REPLY_TIMEOUT)
        self.token = self._store.get("token").decode()

    def _open_store(self) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host, port = self.cluster.rdzv_address
        try:
            self._store = TCPStore(
                host, port, is_master=True, multi_tenant=True, wait_for_workers=False, timeout=_REPLY_TIMEOUT
            )
        except (RuntimeError, ValueError) as error:
            raise RmrkdError(
                f"cannot listen on {self.endpoint}: {summarize_error(error)}",
                "choose a free port of this machine with --rdzv-endpoint, the same on every machine",
            ) from error
        self._store.set("token", self.token)


def open_rendezvous(cluster: Cluster, job_name: str) -> LocalRendezvous:
    """Open the rendezvous of a job.

    Args:
        job_name: The same on every machine.

    Raises:
        RmrkdError: When the first machine cannot open its port.
        RunError: When the first machine does not open its port in time.
    """
    if cluster.nodes == 1:
        return LocalRendezvous()
    log(f"machine {cluster.node_rank} of 0..{cluster.nodes - 1} waits for the others at {cluster.rdzv_endpoint}")
    return TcpRendezvous(cluster, job_name)


def wait_for_port(host: str, port: int, hint: str, on_wait: Callable[[], object] = lambda: None) -> None:
    """Wait until the port accepts connections. TCPStore waits too, but in C++, where no signal ends it.

    Args:
        on_wait: Called between two attempts.

    Raises:
        RunError: When it does not within half an hour.
    """
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"the first machine did not open {host}:{port} within {JOIN_SECONDS // 60} minutes: {error}",
                    hint,
                ) from error
        on_wait()
        time.sleep(_RETRY_SECONDS)
