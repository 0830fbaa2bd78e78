"""Starts the workers of a job: in this process when it is one, through torch's own launcher when there are more."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rmrkd_cli.engine.addresses import address_towards, interface_towards
from rmrkd_cli.engine.cluster import Cluster
from rmrkd_cli.engine.job import EvalJob, Job, TrainJob, write_job
from rmrkd_cli.engine.verdict import ERRORS, Verdicts
from rmrkd_cli.errors import Interrupted, RmrkdError, RunError
from rmrkd_cli.signals import heeded, restored

_SHUTDOWN_SECONDS = 120  # a worker that is told to stop finishes its step and saves first
_JOIN_SECONDS = 1800  # how long machines wait for each other
_KEEP_ALIVE_SECONDS = 2  # three times missed, and a machine is taken for lost


def execute(job: Job, cluster: Cluster) -> None:
    """Runs a job to its end.

    Raises:
        RmrkdError: The first worker's own error, once.
    """
    if cluster.size == 1 and not cluster.restarts:
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
    with tempfile.TemporaryDirectory(prefix="rmrkd-") as folder, restored():
        job_file = Path(folder) / "job.json"
        write_job(job, job_file)
        # where there are several machines, all must learn that an error is final
        shared = isinstance(job, TrainJob) and cluster.nodes > 1
        verdicts = Verdicts(Path(job.run_dir) if shared and isinstance(job, TrainJob) else Path(folder))
        if cluster.is_first:
            verdicts.clear()
        with _worker_environment(verdicts, cluster), _store_of(cluster) as endpoint:
            _until_done(lambda left: _elastic(job, job_file, cluster, endpoint, left), cluster, verdicts)


def _until_done(start: Callable[[int], None], cluster: Cluster, verdicts: Verdicts) -> None:
    """Starts torch's launcher; again, where the machine that held its store was lost."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError, RendezvousTimeoutError

    left = cluster.restarts
    while True:
        try:
            start(left)
            return
        except ChildFailedError as error:
            raise _explained(error, verdicts) from error
        except SignalException as error:
            reported = verdicts.error()
            stopped = Interrupted(
                int(error.sigval), f"stopped by {error.sigval.name}", "the same command with --resume"
            )
            raise reported if isinstance(reported, Interrupted) else stopped from error
        except RendezvousTimeoutError as error:
            raise RunError(
                f"waited {_JOIN_SECONDS // 60} minutes at {cluster.rdzv_endpoint} for all of {cluster.nodes} machines",
                "the same command on each, with its own --node-rank; then --resume",
            ) from error
        except (RendezvousError, DistError, ConnectionError) as error:
            if cluster.nodes == 1:
                raise RunError(f"the workers on this machine cannot reach each other: {error}") from error
            if not left:
                raise RunError(
                    f"the meeting place {cluster.rdzv_endpoint} cannot be reached: {error}",
                    "is the first machine (--node-rank 0) running, and the port open?",
                ) from error
            left -= 1
            _say(f"the first machine was lost; waiting for it at {cluster.rdzv_endpoint}")
            time.sleep(1)


def _elastic(job: Job, job_file: Path, cluster: Cluster, endpoint: str, restarts: int) -> None:
    import logging

    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the worker's own message is shown
    several = cluster.nodes > 1
    settings: dict[str, Any] = {"is_host": cluster.is_first, "keep_alive_interval": _KEEP_ALIVE_SECONDS}
    config = LaunchConfig(
        min_nodes=cluster.nodes,
        max_nodes=cluster.nodes,
        nproc_per_node=cluster.workers,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={**settings, "join_timeout": _JOIN_SECONDS} if several else {},
        run_id=f"rmrkd-{job.role}" if isinstance(job, TrainJob) else "rmrkd",
        max_restarts=restarts,
        start_method="spawn",
        local_addr=address_towards(*cluster.meeting_place) if several else "127.0.0.1",
        signals_to_handle=",".join(signum.name for signum in heeded()),
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    elastic_launch(config, sys.executable)("-m", "rmrkd_cli.engine.worker", str(job_file))


@contextmanager
def _worker_environment(verdicts: Verdicts, cluster: Cluster) -> Iterator[None]:
    """What workers must know before they read their job."""
    from rmrkd_cli.engine.distributed import NODE_RANK

    told = {
        ERRORS: str(verdicts.folder),
        NODE_RANK: str(cluster.node_rank),
        # A store of its own for each attempt: in a shared one a machine that was replaced waits for keys of the first.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    interface = interface_towards(*cluster.meeting_place) if cluster.nodes > 1 else None
    if interface and "GLOO_SOCKET_IFNAME" not in os.environ:
        told["GLOO_SOCKET_IFNAME"] = interface  # gloo would take what the machine's own name resolves to
    before = {key: os.environ.get(key) for key in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _store_of(cluster: Cluster) -> Iterator[str]:
    """Where the machines meet; the first one holds the store there for as long as its command lives."""
    if cluster.nodes == 1:
        yield "localhost:0"
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = cluster.meeting_place
    kept = None
    if cluster.is_first:
        try:
            kept = TCPStore(host, port, is_master=True, multi_tenant=True, wait_for_workers=False)
        except (RuntimeError, ValueError) as error:
            raise RmrkdError(
                f"cannot open the meeting place {cluster.rdzv_endpoint}: {str(error).splitlines()[0]}",
                "choose a free port of this machine with --rdzv-endpoint, the same on every machine",
            ) from error
    _say(f"machine {cluster.node_rank} of {cluster.nodes} waits for the others at {cluster.rdzv_endpoint}")
    yield str(cluster.rdzv_endpoint)
    del kept


def _explained(error: Any, verdicts: Verdicts) -> RmrkdError:
    """The first worker's own error; or, where one was killed, that it was."""
    told = verdicts.error()
    if told is not None and verdicts.final:
        return told
    killed = [(rank, -failure.exitcode) for rank, failure in sorted(error.failures.items()) if failure.exitcode < 0]
    if killed:
        rank, signum = killed[0]
        why = "; killed by hand, or by the system for want of memory?" if signum == 9 else ""
        return RunError(
            f"worker {rank} was ended by signal {signum}{why}",
            "the same command with --resume goes on; --max-restarts N does so by itself",
        )
    return told or RunError("a worker process died without a message", "look above, and into the run's log.jsonl")


def _say(text: str) -> None:
    from rmrkd_cli.console import say

    say(text)
