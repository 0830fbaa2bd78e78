"""How many worker processes there are, and on which machines."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rmrkd_cli.errors import RmrkdError

MOST_RESTARTS = 3  # where there are several workers and nothing else is asked for
_PORTS = range(20000, 30000)  # below those that Linux hands out by itself


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How many worker processes, and where.

    Attributes:
        workers: Processes on this machine.
        nodes: Machines.
        node_rank: This machine's number, 0 .. nodes - 1.
        rdzv_endpoint: HOST:PORT of the first machine, where the others meet; for one machine none is needed.
        max_restarts: How often lost workers are started again; none for three times where there are several.
    """

    workers: int = 1
    nodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str | None = None
    max_restarts: int | None = None

    def __post_init__(self) -> None:
        if self.nodes > 1 and not self.rdzv_endpoint:
            raise RmrkdError(
                f"{self.nodes} machines need a place to meet", "--rdzv-endpoint HOST:PORT, the same on every machine"
            )
        if self.rdzv_endpoint and not (
            re.fullmatch(r"[\w.:\[\]-]+:[0-9]{1,5}", self.rdzv_endpoint) and 0 < self.meeting_place[1] < 65_536
        ):
            raise RmrkdError(f"`{self.rdzv_endpoint}` is not HOST:PORT", "--rdzv-endpoint HOST:29500")
        if not 0 <= self.node_rank < self.nodes:
            raise RmrkdError(f"node rank {self.node_rank} is outside 0..{self.nodes - 1}")

    @property
    def size(self) -> int:
        """All workers of all machines."""
        return self.workers * self.nodes

    @property
    def restarts(self) -> int:
        if self.max_restarts is not None:
            return self.max_restarts
        return MOST_RESTARTS if self.size > 1 else 0

    @property
    def is_first(self) -> bool:
        return self.node_rank == 0

    @property
    def meeting_place(self) -> tuple[str, int]:
        """Host and port of `rdzv_endpoint`."""
        host, port = str(self.rdzv_endpoint).rsplit(":", 1)
        return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Slurm:
    """What Slurm says of the step this process is in.

    Attributes:
        nodes: Machines of the step.
        node_rank: This machine's number among them.
        endpoint: HOST:PORT on the first machine, the same for the whole step.
        gpus: GPUs of the step on this machine, where Slurm gave any.
    """

    nodes: int
    node_rank: int
    endpoint: str
    gpus: int | None


def slurm_step(environment: Mapping[str, str] = os.environ) -> Slurm | None:
    """None outside of `srun`: the batch script itself is on one machine, however many the job has.

    Raises:
        RmrkdError: When the step runs the command more than once on a machine.
    """
    nodes = environment.get("SLURM_STEP_NUM_NODES", "")
    if not nodes.isdigit() or "SLURM_NODEID" not in environment:
        return None
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", nodes))
    if tasks > int(nodes):
        raise RmrkdError(
            f"srun starts this command {tasks} times on {nodes} machine(s), and it starts its own worker for each GPU",
            "srun --ntasks-per-node=1 --gpus-per-node=N rmrkd train …",
        )
    step = f"{environment.get('SLURM_JOB_ID', '0')}{environment.get('SLURM_STEP_ID', '0')}"
    port = _PORTS.start + int(re.sub(r"\D", "", step) or 0) % len(_PORTS)
    host = first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    return Slurm(int(nodes), int(environment["SLURM_NODEID"]), f"{host}:{port}", int(gpus) if gpus.isdigit() else None)


def cluster_of(
    *, workers: int, nodes: int | None, node_rank: int | None, rdzv_endpoint: str | None, max_restarts: int | None,
    slurm: Slurm | None,
) -> Cluster:  # fmt: skip
    """What the user said, and Slurm where the user said nothing."""
    if slurm is not None and (nodes or slurm.nodes) > 1:
        nodes = nodes or slurm.nodes
        node_rank = slurm.node_rank if node_rank is None else node_rank
        rdzv_endpoint = rdzv_endpoint or slurm.endpoint
    return Cluster(
        workers=workers, nodes=nodes or 1, node_rank=node_rank or 0, rdzv_endpoint=rdzv_endpoint,
        max_restarts=max_restarts,
    )  # fmt: skip


def first_host(nodelist: str) -> str:
    """The first name of Slurm's short form: `gpu[07-09,12],cpu1` begins with gpu07."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodelist)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else nodelist)
