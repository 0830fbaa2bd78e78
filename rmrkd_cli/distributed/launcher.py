"""Run a job: in this process with one worker, in processes of torch's elastic launcher with several."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.job import Job, TrainJob, run_job, write_job
from rmrkd_cli.distributed.network_interface import local_address, local_interface
from rmrkd_cli.distributed.rendezvous import LocalRendezvous, open_rendezvous
from rmrkd_cli.distributed.tcp_store import JOIN_SECONDS
from rmrkd_cli.distributed.worker_errors import ERRORS, LAUNCHER, WorkerErrors
from rmrkd_cli.errors import Interrupted, RmrkdError, RunError, summarize_error
from rmrkd_cli.signals import handled_signals, preserve_handlers
from rmrkd_cli.terminal.messages import log

_SHUTDOWN_SECONDS = 120  # a worker finishes its step and saves after a signal
_KEEP_ALIVE_SECONDS = 2  # between heartbeats; a machine is lost after three missed ones
_SHARED_STORAGE_SECONDS = 2  # until shared storage shows a file that another machine wrote


def execute(job: Job, cluster: Cluster) -> None:
    """Run a job until it is done; restart lost workers.

    Raises:
        RmrkdError: The first error of all workers.
    """
    if cluster.external:
        from rmrkd_cli.distributed.external_run import lead_job

        lead_job(job)
    elif cluster.runs_here:
        run_job(job)
    else:
        _run_in_workers(job, cluster)


def _run_in_workers(job: Job, cluster: Cluster) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException

    name = job.name if isinstance(job, TrainJob) else "eval"
    try:
        with tempfile.TemporaryDirectory(prefix="rmrkd-") as folder, preserve_handlers():
            rendezvous = open_rendezvous(cluster, name)
            job_file = Path(folder) / "job.json"
            write_job(job, job_file)
            shared_dir = Path(job.run_dir) if cluster.nodes > 1 and isinstance(job, TrainJob) else None
            errors = WorkerErrors(Path(folder), shared_dir, rendezvous.token)
            try:
                _run_attempts(job_file, cluster, rendezvous, name, errors)
            except SignalException as error:
                raise errors.read_fatal() or _interrupted(error) from error
    except SignalException as error:  # a second signal, while the folder is removed
        raise _interrupted(error) from error


def _interrupted(error: Any) -> Interrupted:
    """Return the error for a signal that no worker reported."""
    return Interrupted(
        int(error.sigval),
        f"stopped by {error.sigval.name}; nothing was saved after the last checkpoint",
        "run the same command with --resume",
    )


def _run_attempts(
    job_file: Path, cluster: Cluster, rendezvous: LocalRendezvous, job_name: str, errors: WorkerErrors
) -> None:
    """Start the workers, and restart them after retryable errors, until the job is done.

    torch's launcher gets `max_restarts=0`. It cannot tell fatal from retryable errors, and would wait for a machine
    that stopped for good.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import api

    if cluster.is_first_node:
        errors.clear()
    restarts_left = cluster.restarts
    ended_attempt: int | None = None
    connection_lost = False
    error: RmrkdError
    while True:
        launched = False
        try:
            if connection_lost:
                rendezvous.reconnect()
                errors.token = rendezvous.token
            elif ended_attempt is not None:
                rendezvous.advance(ended_attempt)
            attempt = rendezvous.attempt()
            ended_attempt, connection_lost, launched = None, False, True
            with _worker_environment(errors, cluster):
                _launch_workers(job_file, cluster, rendezvous.endpoint, f"rmrkd-{job_name}-{attempt}")
            return
        except api.RendezvousClosedError:
            ended_attempt = attempt  # another machine left it; the next attempt shows whether for good
            continue
        except ChildFailedError as failure:
            error, ended_attempt = _worker_error(failure, errors), attempt
        except api.RendezvousTimeoutError:
            raise _rendezvous_timeout(cluster) from None
        except (api.RendezvousError, DistError, ConnectionError) as failure:
            error, connection_lost = _connection_lost(rendezvous, failure), True
        if (launched and not restarts_left) or _has_fatal_error(errors, cluster):
            raise errors.read_fatal() or error
        if launched:
            restarts_left -= 1
            when = ", when all machines are connected" if cluster.nodes > 1 else ""
            count = f"restart {cluster.restarts - restarts_left} of {cluster.restarts}"
            log(f"{error.message}: all workers are restarted{when} ({count})")
        errors.clear_retryable()


def _launch_workers(job_file: Path, cluster: Cluster, endpoint: str, run_id: str) -> None:
    """Start the workers of this machine with torch's elastic launcher, and wait until they end."""
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the worker's own message is shown
    multi_node = cluster.nodes > 1
    rdzv_configs: dict[str, Any] = {
        "is_host": cluster.is_first_node,
        "keep_alive_interval": _KEEP_ALIVE_SECONDS,
        "join_timeout": JOIN_SECONDS,
    }
    config = LaunchConfig(
        min_nodes=cluster.nodes,
        max_nodes=cluster.nodes,
        nproc_per_node=cluster.workers,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs=rdzv_configs if multi_node else {},
        run_id=run_id,
        max_restarts=0,
        start_method="spawn",
        local_addr=local_address(*cluster.rdzv_address) if multi_node else "127.0.0.1",
        signals_to_handle=",".join(signum.name for signum in handled_signals()),
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "rmrkd_cli.distributed.worker", str(job_file))
    except AttributeError as error:
        if error.name == "is_failed" and error.obj is None:
            # A machine came back before the others noticed its loss, so its place was still taken. torch's agent then
            # leaves without a result when the others close the rendezvous, and its launcher reads the missing result.
            raise RendezvousClosedError(f"attempt {run_id} was closed") from error
        raise


@contextmanager
def _worker_environment(errors: WorkerErrors, cluster: Cluster) -> Iterator[None]:
    """Set the environment variables that workers need before they read their job."""
    from rmrkd_cli.distributed.process_group import NODE_RANK

    variables = {
        ERRORS: errors.environment,
        LAUNCHER: str(os.getpid()),
        NODE_RANK: str(cluster.node_rank),
        # A new store for each attempt: in a shared one a restarted machine waits for keys of the first attempt.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    interface = local_interface(*cluster.rdzv_address) if cluster.nodes > 1 else None
    if interface and "GLOO_SOCKET_IFNAME" not in os.environ:
        variables["GLOO_SOCKET_IFNAME"] = interface  # gloo's default is the address of this machine's host name
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _has_fatal_error(errors: WorkerErrors, cluster: Cluster) -> bool:
    """Return whether a worker left a fatal error; wait for files of other machines on shared storage."""
    deadline = time.monotonic() + (_SHARED_STORAGE_SECONDS if cluster.nodes > 1 else 0)
    while not errors.fatal and time.monotonic() < deadline:
        time.sleep(0.1)
    return errors.fatal


def _worker_error(failure: Any, errors: WorkerErrors) -> RmrkdError:
    """Return the fatal error of a worker, else the signal that killed one, else a retryable error.

    Args:
        failure: torch's ChildFailedError.
    """
    if fatal := errors.read_fatal():
        return fatal
    killed = [(rank, -child.exitcode) for rank, child in sorted(failure.failures.items()) if child.exitcode < 0]
    if killed:
        rank, signum = killed[0]
        cause = "; by hand, or by the system because memory ran out" if signum == 9 else ""
        return RunError(
            f"worker {rank} was killed by signal {signum}{cause}",
            "run the same command with --resume; --max-restarts N restarts workers automatically",
        )
    return errors.read() or RunError(
        "a worker process ended without an error message", "see the output above and the run's log.jsonl"
    )


def _rendezvous_timeout(cluster: Cluster) -> RunError:
    return RunError(
        f"waited {JOIN_SECONDS // 60} minutes at {cluster.rdzv_endpoint} for all of {cluster.nodes} machines",
        "run the same command on each machine with its own --node-rank; then --resume",
    )


def _connection_lost(rendezvous: LocalRendezvous, failure: Exception) -> RunError:
    return RunError(
        f"lost the connection to {rendezvous.endpoint}: {summarize_error(failure)}",
        "check that the command is running on the first machine (--node-rank 0)",
    )
