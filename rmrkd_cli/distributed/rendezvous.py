"""Where the launchers of a run meet, and which attempt they are at."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError, RunError, first_line
from rmrkd_cli.terminal.console import say

JOIN_SECONDS = 1800  # how long machines wait for each other
_ANSWER = timedelta(seconds=60)  # of a store that can be reached


class LocalRendezvous:
    """One machine's alone: nobody else is asked.

    Attributes:
        endpoint: For torch's launcher.
        token: Names this start of the run's first machine, so that nothing left by an earlier one is taken for its.
    """

    endpoint = "localhost:0"

    def __init__(self) -> None:
        self.token = os.urandom(4).hex()
        self._attempt = 0

    def attempt(self) -> int:
        """The attempt that all machines are at, from 0; a machine that is started again joins the others there."""
        return self._attempt

    def advance(self, attempt: int) -> None:
        """That attempt is over; whoever says so first, the next one is the same for all."""
        self._attempt = max(self._attempt, attempt + 1)

    def reconnect(self) -> None:
        """Meets again after the place was lost."""


class TcpRendezvous(LocalRendezvous):
    """At a store that the first machine's launcher holds as long as it lives."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__()
        self.cluster, self.name = cluster, name
        self.endpoint = str(cluster.rdzv_endpoint)
        self._store: Any = None
        self.reconnect()

    def attempt(self) -> int:
        return int(self._store.add(f"{self.name}/attempt", 0))

    def advance(self, attempt: int) -> None:
        if self._store.add(f"{self.name}/over/{attempt}", 1) == 1:
            self._store.add(f"{self.name}/attempt", 1)
        while self.attempt() == attempt:  # another machine was first, and is about to count
            time.sleep(0.01)

    def reconnect(self) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host, port = self.cluster.meeting_place
        if self.cluster.is_first:
            if self._store is not None:
                return  # it is here, whatever became of the others
            try:
                self._store = TCPStore(
                    host, port, is_master=True, multi_tenant=True, wait_for_workers=False, timeout=_ANSWER
                )
            except (RuntimeError, ValueError) as error:
                raise RmrkdError(
                    f"cannot open the meeting place {self.endpoint}: {first_line(error)}",
                    "choose a free port of this machine with --rdzv-endpoint, the same on every machine",
                ) from error
            self._store.set("token", self.token)
            return
        self._store = None
        _wait_for(host, port)
        self._store = TCPStore(host, port, is_master=False, timeout=_ANSWER)
        self.token = self._store.get("token").decode()


@contextmanager
def meeting(cluster: Cluster, name: str) -> Iterator[LocalRendezvous]:
    """Opens it, and says that the machines wait for each other.

    Args:
        name: Of the job, the same on every machine.

    Raises:
        RmrkdError: When the port of the first machine is taken.
        RunError: When the first machine does not come in time.
    """
    if cluster.nodes == 1:
        yield LocalRendezvous()
        return
    say(f"machine {cluster.node_rank} of 0..{cluster.nodes - 1} waits for the others at {cluster.rdzv_endpoint}")
    yield TcpRendezvous(cluster, name)


def _wait_for(host: str, port: int) -> None:
    """Until somebody listens there; in plain Python, so that a signal can end it."""
    until = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise RunError(
                    f"the first machine did not open {host}:{port} within {JOIN_SECONDS // 60} minutes: {error}",
                    "is the command running there with --node-rank 0, and the port open?",
                ) from error
        time.sleep(1)
