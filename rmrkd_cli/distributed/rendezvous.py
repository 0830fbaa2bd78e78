"""The rendezvous: where the launchers of a run's machines connect, and the number of the current attempt."""

from __future__ import annotations

import os
import time
from typing import Any

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.tcp_store import connect_store, open_store
from rmrkd_cli.terminal.messages import log


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
        self._store = None
        hint = "start the same command there with --node-rank 0, and open the port in its firewall"
        self._store = connect_store(*self.cluster.rdzv_address, hint)
        self.token = self._store.get("token").decode()

    def _open_store(self) -> None:
        hint = "choose a free port of this machine with --rdzv-endpoint, the same on every machine"
        self._store = open_store(*self.cluster.rdzv_address, self.endpoint, hint, multi_tenant=True)
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
