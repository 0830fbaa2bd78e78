"""How the workers of another launcher agree: rank 0 runs the command, the others run the jobs that it publishes.

Everything passes through one TCPStore, which rank 0 opens, or the launcher before it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rmrkd_cli import __version__
from rmrkd_cli.distributed.external_worker import ExternalWorker
from rmrkd_cli.distributed.generation import Welcome, ask_generation, prefix
from rmrkd_cli.distributed.join_notice import JoinNotice, list_ranks
from rmrkd_cli.distributed.lost_worker import connection_lost
from rmrkd_cli.distributed.members import Member, check_members
from rmrkd_cli.distributed.tcp_store import JOIN_SECONDS, connect_store, open_store
from rmrkd_cli.distributed.worker_errors import error_from_json, error_to_json
from rmrkd_cli.errors import RmrkdError, RunError, WorkerLostError

if TYPE_CHECKING:
    from rmrkd_cli.distributed.process_group import DistContext

_POLL_SECONDS = 0.05
_LEAVE_SECONDS = 10.0  # rank 0, whose process may hold the store, waits this long for the others
_END = "end"
_current: list[Coordinator] = []  # of this process


class Coordinator:
    """One worker's connection to the others.

    Attributes:
        jobs: How many jobs this worker has published or done.
        context: The process group, when the first job has opened it; it serves all jobs.
        generation: Number of this start of the workers in the store, from 1.

    Raises:
        RmrkdError: When the store cannot be opened, or another worker has the same rank.
        RunError: When the store does not answer in time.
    """

    def __init__(self, worker: ExternalWorker) -> None:
        self.worker = worker
        self.jobs = 0
        self.context: DistContext | None = None
        self._server = _open_store(worker) if worker.rank == 0 and not worker.launcher_has_store else None
        self._notice = JoinNotice(worker)
        everyone = self._connect()
        self._welcome = Welcome(everyone) if worker.rank == 0 else None
        self.generation = self._welcome.generation if self._welcome else self._ask_generation(everyone)
        self.store = self.connect()
        if self.store.add(f"count/{worker.rank}", 1) > 1:
            raise self._two_workers()
        me = Member(worker.rank, worker.local_rank, worker.machine, socket.gethostname(), os.getpid(), __version__)
        self.store.set(f"member/{worker.rank}", json.dumps(me.__dict__))

    def connect(self) -> Any:
        """Return a new connection to the store, for another thread: a connection waits for one answer at a time."""
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        try:
            return PrefixStore(prefix(self.generation), self._connect(_LEAVE_SECONDS))
        except RunError as error:  # its port was open before
            raise connection_lost(self.worker) from error

    def _connect(self, seconds: float = JOIN_SECONDS) -> Any:
        """Return a connection to the keys of all generations, when the store opens in this time."""
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        hint = "start the other workers too, and open the port in rank 0's firewall"
        store = connect_store(self.worker.host, self.worker.port, hint, lambda: self._notice.look([0]), seconds=seconds)
        return PrefixStore("rmrkd", store)

    def _ask_generation(self, store: Any) -> int:
        deadline = time.monotonic() + JOIN_SECONDS

        def wait() -> None:
            self._notice.look([0])
            if time.monotonic() > deadline:
                raise self._missing([0])
            time.sleep(_POLL_SECONDS)

        return ask_generation(store, wait)

    def welcome(self, store: Any = None) -> bool:
        """On rank 0, answer workers that ask for the generation, and return whether any did; elsewhere do nothing.

        Args:
            store: A connection of the calling thread.
        """
        if self._welcome is None:
            return False
        return self._welcome.answer((store or self.store).underlying_store, self._two_workers())

    @property
    def restarted(self) -> bool:
        """Whether the launcher has restarted the workers, on this machine or with another one."""
        return self.worker.attempt > 0 or self.generation > 1

    def _two_workers(self) -> RmrkdError:
        return RmrkdError(
            f"two workers have RANK={self.worker.rank} of WORLD_SIZE={self.worker.size}",
            "start each worker with its own RANK; `torchrun` does so",
        )

    def _missing(self, ranks: list[int]) -> RunError:
        return RunError(
            f"waited {JOIN_SECONDS // 60} minutes for {len(ranks)} of {self.worker.size} workers: {list_ranks(ranks)}",
            "WORLD_SIZE counts worker processes, one for each GPU; with several GPUs on a machine start "
            "`torchrun --nproc_per_node N -m rmrkd_cli …` there",
        )

    @cached_property
    def members(self) -> list[Member]:
        """All workers, when all have connected.

        Raises:
            RunError: When some do not connect in time.
            RmrkdError: When their ranks contradict each other.
        """
        ranks = range(self.worker.size)
        deadline, notice = time.monotonic() + JOIN_SECONDS, JoinNotice(self.worker)
        while missing := [rank for rank in ranks if not self.store.check([f"member/{rank}"])]:
            self.welcome()
            self.raise_error()
            notice.look(missing)
            if time.monotonic() > deadline:
                raise self._missing(missing)
            time.sleep(_POLL_SECONDS)
        members = [Member(**json.loads(self.store.get(f"member/{rank}"))) for rank in ranks]
        check_members(members)
        return members

    @property
    def local_members(self) -> list[Member]:
        """The workers of this machine."""
        return [member for member in self.members if member.machine == self.worker.machine]

    @property
    def local_rank(self) -> int:
        local = self.worker.local_rank
        return local if local is not None else 0  # `check_members` allows one such worker on a machine

    @property
    def local_size(self) -> int:
        return self.worker.local_size or len(self.local_members)

    @property
    def leads_machine(self) -> bool:
        """Whether this worker prepares its machine for the others: the first there."""
        return self.local_members[0].rank == self.worker.rank

    def local_peers(self, store: Any = None) -> dict[int, int]:
        """Return rank -> process id of the other workers of this machine that have not left.

        Args:
            store: A connection of the calling thread.
        """
        if "members" not in self.__dict__:
            return {}
        store = store or self.store
        peers = {member.rank: member.pid for member in self.local_members if member.rank != self.worker.rank}
        if not store.check(["left"]):
            return peers
        return {rank: pid for rank, pid in peers.items() if not store.check([f"left/{rank}"])}

    @property
    def machines(self) -> int:
        return len({member.machine for member in self.members})

    def publish(self, job: str) -> None:
        """Publish the next job."""
        self.store.set(f"job/{self.jobs}", job)

    def wait_for_job(self) -> str | None:
        """Return the next job; None when rank 0 has ended without an error.

        Raises:
            RmrkdError: The error of another worker.
        """
        while not self.store.check([f"job/{self.jobs}"]):
            self.raise_error()
            time.sleep(_POLL_SECONDS)
        job: str = self.store.get(f"job/{self.jobs}").decode()
        return None if job == _END else job

    def publish_end(self) -> None:
        """Publish that no job follows, and wait until the others know."""
        self.publish(_END)
        self.wait_until_left(_LEAVE_SECONDS)

    def wait_until_left(self, seconds: float) -> None:
        """Wait until the other workers need the store no more, which may end with this process.

        Args:
            seconds: To wait for workers that have not connected; one that just did has ten seconds.
        """
        deadline = time.monotonic() + seconds
        while self.store.add("left", 0) < self.worker.size - 1 and time.monotonic() < deadline:
            if self.welcome():  # one that starts late reads the error
                deadline = max(deadline, time.monotonic() + _LEAVE_SECONDS)
            time.sleep(_POLL_SECONDS)

    def leave(self, store: Any = None) -> None:
        """Tell rank 0 that this worker needs the store no more.

        Args:
            store: A connection of the calling thread.
        """
        (store or self.store).set(f"left/{self.worker.rank}", "")
        (store or self.store).add("left", 1)

    def acknowledge(self) -> None:
        """Tell rank 0 that this worker has done the job."""
        self.store.add(f"done/{self.jobs}", 1)
        self.jobs += 1

    def wait_until_done(self) -> None:
        """Wait until all other workers have done the job.

        Raises:
            RmrkdError: The error of another worker.
        """
        while self.store.add(f"done/{self.jobs}", 0) < self.worker.size - 1:
            self.raise_error()
            time.sleep(_POLL_SECONDS)
        self.jobs += 1

    def set_image_cache(self, path: str) -> None:
        """Name this machine's file of decoded images."""
        self.store.set(f"cache/{self.worker.machine}", path)

    def image_cache(self, of_rank0: str) -> str:
        """Return this machine's file of decoded images."""
        key = f"cache/{self.worker.machine}"
        return self.store.get(key).decode() if self.store.check([key]) else of_rank0

    def write(self, error: RmrkdError, *, fatal: bool = True, store: Any = None) -> bool:
        """Tell the others the error that ends the run; return False if another worker was first.

        Args:
            fatal: False for the mere loss of another worker, which has an error of its own.
            store: A connection of the calling thread.
        """
        if not fatal and not isinstance(error, WorkerLostError):
            return False
        own = error_to_json(error)
        return bool((store or self.store).compare_set("error", "", own).decode() == own)

    def read_error(self, store: Any = None) -> RmrkdError | None:
        """Return the first error of all workers, or None.

        Args:
            store: A connection of the calling thread.
        """
        store = store or self.store
        return error_from_json(store.get("error").decode()) if store.check(["error"]) else None

    def raise_error(self) -> None:
        """Raise the first error of all workers, if there is one."""
        if (error := self.read_error()) is not None:
            raise error

    def wait_for_error(self, seconds: float) -> RmrkdError | None:
        """Return the first error of all workers; None when there is none after this time."""
        deadline = time.monotonic() + seconds
        while (error := self.read_error()) is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return error


def connect(worker: ExternalWorker) -> Coordinator:
    """Connect this process to the other workers, once; see `Coordinator`.

    Raises:
        WorkerLostError: When the store closes meanwhile.
    """
    try:
        _current[:] = [Coordinator(worker)]
    except (RuntimeError, ConnectionError) as error:
        raise connection_lost(worker) from error
    return _current[0]


def current_coordinator() -> Coordinator | None:
    """Return this process's connection to the other workers; None without another launcher."""
    return _current[0] if _current else None


def _open_store(worker: ExternalWorker) -> Any:
    hint = "choose a free port: torchrun --master_port PORT, or MASTER_PORT=PORT for every worker"
    return open_store(worker.host, worker.port, f"MASTER_PORT={worker.port}", hint)
