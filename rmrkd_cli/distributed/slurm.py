"""Read the machines of a Slurm job step from its environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rmrkd_cli.errors import RmrkdError

_PORTS = range(20000, 30000)  # below the ports that Linux assigns to clients


@dataclass(frozen=True)
class SlurmStep:
    """The job step that this process belongs to.

    Attributes:
        nodes: Machines of the step.
        node_rank: Number of this machine, from 0.
        endpoint: HOST:PORT on the first machine, equal on all machines of the step.
        gpus: The step's GPUs on this machine, or None.
    """

    nodes: int
    node_rank: int
    endpoint: str
    gpus: int | None


def read_slurm_step(environment: Mapping[str, str] = os.environ) -> SlurmStep | None:
    """Return the job step; None without `srun`, because a batch script runs on one machine only.

    Raises:
        RmrkdError: When the step runs the command more than once on a machine.
    """
    nodes = environment.get("SLURM_STEP_NUM_NODES", "")
    if not nodes.isdigit() or "SLURM_NODEID" not in environment:
        return None
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", nodes))
    if tasks > int(nodes):
        raise RmrkdError(
            f"srun starts this command {tasks} times on {nodes} machine(s); it must run once on each machine, because "
            "it starts a worker for each GPU itself",
            "srun --ntasks-per-node=1 --gpus-per-node=N rmrkd train …",
        )
    step_id = f"{environment.get('SLURM_JOB_ID', '0')}{environment.get('SLURM_STEP_ID', '0')}"
    port = _PORTS.start + int(re.sub(r"\D", "", step_id) or 0) % len(_PORTS)
    host = first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    return SlurmStep(
        nodes=int(nodes),
        node_rank=int(environment["SLURM_NODEID"]),
        endpoint=f"{host}:{port}",
        gpus=int(gpus) if gpus.isdigit() else None,
    )


def first_host(nodelist: str) -> str:
    """Return the first host of Slurm's node list: gpu07 for `gpu[07-09,12],cpu1`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodelist)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else nodelist)
