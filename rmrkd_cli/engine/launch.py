"""Starts the workers of a job: in this process when it is one, through torch's own launcher when there are more."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rmrkd_cli.engine.job import EvalJob, Job, write_job
from rmrkd_cli.errors import Interrupted, RmrkdError, RunError

ERROR_FILE = "RMRKD_ERROR_FILE"
_SHUTDOWN_SECONDS = 300  # a worker that is told to stop finishes its step and saves first


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How many worker processes, and where.

    Attributes:
        workers: Processes on this machine.
        nodes: Machines.
        node_rank: This machine's number, 0 .. nodes - 1.
        rdzv_endpoint: HOST:PORT of the first machine, where the others meet; for one machine none is needed.
    """

    workers: int = 1
    nodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str | None = None

    def __post_init__(self) -> None:
        if self.nodes > 1 and not self.rdzv_endpoint:
            raise RmrkdError(
                f"{self.nodes} machines need a place to meet", "--rdzv-endpoint HOST:PORT, the same on every machine"
            )
        if self.rdzv_endpoint and not re.fullmatch(r"[\w.:\[\]-]+:\d{1,5}", self.rdzv_endpoint):
            raise RmrkdError(f"`{self.rdzv_endpoint}` is not HOST:PORT", "--rdzv-endpoint HOST:29500")
        if not 0 <= self.node_rank < self.nodes:
            raise RmrkdError(f"node rank {self.node_rank} is outside 0..{self.nodes - 1}")


def execute(job: Job, cluster: Cluster) -> None:
    """Runs a job to its end.

    Raises:
        RmrkdError: The first worker's own error, once.
    """
    if cluster.workers * cluster.nodes == 1:
        run_job(job)
    else:
        _launch(job, cluster)


def run_job(job: Job) -> None:
    """What each worker does."""
    if isinstance(job, EvalJob):
        from rmrkd_cli.engine.evaluation_run import run_evaluation

        run_evaluation(job)
    else:
        from rmrkd_cli.engine.trainer import run_training

        run_training(job)


def _launch(job: Job, cluster: Cluster) -> None:
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the worker's own message is shown
    with tempfile.TemporaryDirectory(prefix="rmrkd-") as folder:
        job_file, error_file = Path(folder) / "job.json", Path(folder) / "error.json"
        write_job(job, job_file)
        os.environ[ERROR_FILE] = str(error_file)
        single = cluster.nodes == 1
        config = LaunchConfig(
            min_nodes=cluster.nodes,
            max_nodes=cluster.nodes,
            nproc_per_node=cluster.workers,
            rdzv_backend="c10d" if single else "static",
            rdzv_endpoint="localhost:0" if single else str(cluster.rdzv_endpoint),
            rdzv_configs={} if single else {"rank": cluster.node_rank},
            run_id=f"rmrkd-{os.getpid()}" if single else "rmrkd",
            max_restarts=0,
            start_method="spawn",
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "rmrkd_cli.engine.worker", str(job_file))
        except ChildFailedError as error:
            raise _worker_error(error_file) from error
        except SignalException as error:
            reported = _worker_error(error_file)
            signum = int(error.sigval)
            raise reported if isinstance(reported, Interrupted) else Interrupted(signum, "stopped") from error


def _worker_error(error_file: Path) -> RmrkdError:
    if not error_file.is_file():
        return RunError("a worker process died without a message", "look above, and into the run's log.jsonl")
    told = json.loads(error_file.read_text(encoding="utf-8"))
    if told["exit_code"] > 128:
        return Interrupted(told["exit_code"] - 128, told["message"], told["hint"])
    return (RunError if told["exit_code"] == 1 else RmrkdError)(told["message"], told["hint"])
