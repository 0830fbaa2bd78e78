"""Starts the workers of a job: in this process when it is one, through torch's own launcher when there are more."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.job import Job, TrainJob, write_job
from rmrkd_cli.distributed.network_interface import address_towards, interface_towards
from rmrkd_cli.distributed.rendezvous import JOIN_SECONDS, LocalRendezvous, meeting
from rmrkd_cli.distributed.worker_errors import ERRORS, LAUNCHER, WorkerErrors
from rmrkd_cli.errors import Interrupted, RmrkdError, RunError, first_line
from rmrkd_cli.signals import handled_signals, restore_default_handlers
from rmrkd_cli.terminal.console import say

_SHUTDOWN_SECONDS = 120  # a worker that is told to stop finishes its step and saves first
_KEEP_ALIVE_SECONDS = 2  # three times missed, and a machine is taken for lost
_NEWS_SECONDS = 2  # until what another machine wrote is seen on shared storage


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
    module, _, function = job.entry_point.partition(":")
    getattr(import_module(module), function)(job)


def _launch(job: Job, cluster: Cluster) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException

    name = job.name if isinstance(job, TrainJob) else "eval"
    try:
        with (
            tempfile.TemporaryDirectory(prefix="rmrkd-") as folder,
            restore_default_handlers(),
            meeting(cluster, name) as place,
        ):
            job_file = Path(folder) / "job.json"
            write_job(job, job_file)
            shared = Path(job.run_dir) if cluster.nodes > 1 and isinstance(job, TrainJob) else None
            verdicts = WorkerErrors(Path(folder), shared, place.token)
            try:
                _until_done(job_file, cluster, place, name, verdicts)
            except SignalException as error:
                raise (verdicts.error() if verdicts.final else None) or _stopped(error) from error
    except SignalException as error:
        raise _stopped(error) from error


def _stopped(error: Any) -> Interrupted:
    """A signal came, and no worker has said what became of it."""
    return Interrupted(
        int(error.sigval), f"stopped by {error.sigval.name}; nothing was saved after the last checkpoint",
        "the same command with --resume",
    )  # fmt: skip


def _until_done(job_file: Path, cluster: Cluster, place: LocalRendezvous, name: str, verdicts: WorkerErrors) -> None:
    """Starts workers, again where some were lost, until the job is done.

    torch's launcher restarts nothing by itself: it does not know which errors are final, nor that another machine has
    stopped for good, and would wait for it.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import api as rendezvous

    if cluster.is_first:
        verdicts.clear()
    left, over, lost = cluster.restarts, -1, False  # over: the last attempt that has ended
    problem: RmrkdError
    while True:
        started = False
        try:
            if lost:
                place.reconnect()
                verdicts.token = place.token
            elif over >= 0:
                place.advance(over)
            attempt, over, lost, started = place.attempt(), -1, False, True
            with _worker_environment(verdicts, cluster):
                _elastic(job_file, cluster, place.endpoint, f"rmrkd-{name}-{attempt}")
            return
        except rendezvous.RendezvousClosedError:
            over = attempt  # another machine has left it; whether for good is seen in the next one
            continue
        except ChildFailedError as error:
            problem, over = _explained(error, verdicts), attempt
        except rendezvous.RendezvousTimeoutError:
            raise _rendezvous_timeout(cluster) from None
        except (rendezvous.RendezvousError, DistError, ConnectionError) as error:
            problem, lost = _rendezvous_lost(place, error), True
        if (started and not left) or _is_final(verdicts, cluster):
            raise (verdicts.error() if verdicts.final else None) or problem
        if started:
            left -= 1
            waiting = ", when all machines are here" if cluster.nodes > 1 else ""
            times = f"{cluster.restarts - left} of {cluster.restarts} times"
            say(f"{problem.message}: all workers are started again{waiting} ({times})")
        verdicts.forget_passing()


def _rendezvous_timeout(cluster: Cluster) -> RunError:
    return RunError(
        f"waited {JOIN_SECONDS // 60} minutes at {cluster.rdzv_endpoint} for all of {cluster.nodes} machines",
        "the same command on each, with its own --node-rank; then --resume",
    )


def _rendezvous_lost(place: LocalRendezvous, error: Exception) -> RunError:
    return RunError(
        f"the meeting place {place.endpoint} was lost: {first_line(error)}",
        "is the first machine (--node-rank 0) running?",
    )


def _is_final(verdicts: WorkerErrors, cluster: Cluster) -> bool:
    """Whether to try again is useless; a file of another machine can take a moment to be seen here."""
    until = time.monotonic() + (_NEWS_SECONDS if cluster.nodes > 1 else 0)
    while not verdicts.final and time.monotonic() < until:
        time.sleep(0.1)
    return verdicts.final


def _elastic(job_file: Path, cluster: Cluster, endpoint: str, run_id: str) -> None:
    import logging

    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError
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
        rdzv_configs={**settings, "join_timeout": JOIN_SECONDS} if several else {},
        run_id=run_id,
        max_restarts=0,
        start_method="spawn",
        local_addr=address_towards(*cluster.meeting_place) if several else "127.0.0.1",
        signals_to_handle=",".join(signum.name for signum in handled_signals()),
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "rmrkd_cli.distributed.worker", str(job_file))
    except AttributeError as error:
        if error.name == "is_failed" and error.obj is None:
            # a machine that came back while the others did not know yet that it was lost: its place was still taken,
            # torch's agent left the meeting when they closed it, and its launcher looks for a result all the same
            raise RendezvousClosedError(f"attempt {run_id} was over") from error
        raise


@contextmanager
def _worker_environment(verdicts: WorkerErrors, cluster: Cluster) -> Iterator[None]:
    """What workers must know before they read their job."""
    from rmrkd_cli.distributed.process_group import NODE_RANK

    told = {
        ERRORS: verdicts.environment,
        LAUNCHER: str(os.getpid()),
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


def _explained(error: Any, verdicts: WorkerErrors) -> RmrkdError:
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
