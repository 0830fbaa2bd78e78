"""The cluster of a run: how many worker processes, on which machines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmrkd_cli.distributed.slurm import SlurmStep
from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.distributed.coordination import Coordinator

DEFAULT_RESTARTS = 3  # with several workers


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Worker processes and machines.

    Attributes:
        workers: Worker processes on this machine.
        nodes: Machines.
        node_rank: Number of this machine, 0 .. nodes - 1.
        rdzv_endpoint: HOST:PORT of the first machine, where the machines connect; None with one machine.
        max_restarts: How often lost workers are restarted; None for 3 with several workers, 0 with one.
        external: Another launcher has started the workers, and all of them count as `workers`.
    """

    workers: int = 1
    nodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str | None = None
    max_restarts: int | None = None
    external: bool = False

    def __post_init__(self) -> None:
        if self.nodes > 1 and not self.rdzv_endpoint:
            raise RmrkdError(
                f"--nodes {self.nodes} needs the address of the first machine",
                "--rdzv-endpoint HOST:PORT, the same on every machine",
            )
        if self.rdzv_endpoint and not (
            re.fullmatch(r"[\w.:\[\]-]+:[0-9]{1,5}", self.rdzv_endpoint) and 0 < self.rdzv_address[1] < 65_536
        ):
            raise RmrkdError(f"`{self.rdzv_endpoint}` is not HOST:PORT", "--rdzv-endpoint HOST:29500")
        if not 0 <= self.node_rank < self.nodes:
            raise RmrkdError(f"--node-rank {self.node_rank} is outside 0..{self.nodes - 1}")

    @property
    def size(self) -> int:
        """Workers on all machines."""
        return self.workers * self.nodes

    @property
    def restarts(self) -> int:
        """How often lost workers are restarted."""
        if self.external:
            return 0
        if self.max_restarts is not None:
            return self.max_restarts
        return DEFAULT_RESTARTS if self.size > 1 else 0

    @property
    def runs_here(self) -> bool:
        """Whether this process is a worker, so that no others are started."""
        return self.external or (self.size == 1 and not self.restarts)

    @property
    def is_first_node(self) -> bool:
        return self.node_rank == 0

    @property
    def rdzv_address(self) -> tuple[str, int]:
        """Host and port of `rdzv_endpoint`."""
        host, port = str(self.rdzv_endpoint).rsplit(":", 1)
        return host.strip("[]"), int(port)


def resolve_cluster(
    *,
    workers: int,
    nodes: int | None,
    node_rank: int | None,
    rdzv_endpoint: str | None,
    max_restarts: int | None,
    slurm: SlurmStep | None,
) -> Cluster:
    """Return the cluster of the command-line options; Slurm's values replace options that are None."""
    if slurm is not None and (nodes or slurm.nodes) > 1:
        nodes = nodes or slurm.nodes
        node_rank = slurm.node_rank if node_rank is None else node_rank
        rdzv_endpoint = rdzv_endpoint or slurm.endpoint
    return Cluster(
        workers=workers,
        nodes=nodes or 1,
        node_rank=node_rank or 0,
        rdzv_endpoint=rdzv_endpoint,
        max_restarts=max_restarts,
    )


def external_cluster(
    coordinator: Coordinator,
    *,
    gpus: int | None,
    nodes: int | None = None,
    node_rank: int | None = None,
    rdzv_endpoint: str | None = None,
    max_restarts: int | None = None,
) -> Cluster:
    """Return the cluster of another launcher's workers.

    Raises:
        RmrkdError: When an option contradicts the launcher, or decides what it decides.
    """
    size = coordinator.worker.size
    for name, value in (
        ("--node-rank", node_rank),
        ("--rdzv-endpoint", rdzv_endpoint),
        ("--max-restarts", max_restarts),
    ):
        if value is not None:
            raise RmrkdError(
                f"{name} {value}: another launcher has started the workers (WORLD_SIZE={size}), and decides this",
                f"leave {name} out, or give it to that launcher",
            )
    if gpus is not None and gpus != coordinator.local_size:
        raise RmrkdError(
            f"--gpus {gpus}: another launcher has started {coordinator.local_size} worker(s) on this machine "
            f"(RANK={coordinator.worker.rank}, WORLD_SIZE={size})",
            f"leave --gpus out, or start `torchrun --nproc_per_node {gpus} -m rmrkd_cli …`",
        )
    if nodes is not None and nodes != coordinator.machines:
        raise RmrkdError(
            f"--nodes {nodes}: another launcher has started these {size} workers on {coordinator.machines} machine(s)",
            "leave --nodes out",
        )
    return Cluster(workers=size, external=True)
