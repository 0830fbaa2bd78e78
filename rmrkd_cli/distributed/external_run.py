"""Run a command with the workers of another launcher: rank 0 leads, the other ranks follow."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from rmrkd_cli.data import loader_server
from rmrkd_cli.distributed.coordination import Coordinator, connect, current_coordinator
from rmrkd_cli.distributed.external_worker import ExternalWorker
from rmrkd_cli.distributed.job import Job, PrepareJob, TrainJob, job_from_json, job_to_json, run_job
from rmrkd_cli.distributed.lost_worker import connection_lost, is_lost_worker, report_failure
from rmrkd_cli.distributed.watchdog import Watchdog, find_lost_peer
from rmrkd_cli.errors import Interrupted, RmrkdError, RunError
from rmrkd_cli.signals import StopRequest, handled_signals, ignore_stop_signals, received_exit_signal
from rmrkd_cli.terminal.console import print_error

_ERROR_SECONDS = 5.0  # until the error of a lost worker must have arrived
_LEAVE_SECONDS = 15.0  # until the others, which may still start, have read the error of rank 0: it may hold the store


@contextmanager
def lead(worker: ExternalWorker | None) -> Iterator[None]:
    """Let the other workers take part in the command in this block, and end with it.

    Args:
        worker: This process, as rank 0; None without another launcher.

    Raises:
        RmrkdError: The error of another worker that ended the run.
    """
    if worker is None:
        yield
        return
    coordinator, printing = connect(worker), threading.Lock()

    def print_and_exit(error: RmrkdError) -> None:
        if not received_exit_signal() and printing.acquire(blocking=False):
            print_error(error)
            os._exit(error.exit_code)

    watchdog = _watch(coordinator, print_and_exit)
    try:
        yield
    except BaseException as error:
        printing.acquire()  # forever, if the watchdog prints already; it ends the process
        watchdog.stop()
        ignore_stop_signals()  # the launcher sends one when another worker has ended
        with suppress(RuntimeError, ConnectionError):
            lost = _killed_before(error, coordinator)
            coordinator.write(lost or _describe(error))
            first = lost or coordinator.read_error()
            coordinator.wait_until_left(_LEAVE_SECONDS)
            if isinstance(error, SystemExit) and first is not None and first.exit_code != error.code:
                raise first from error  # the signal followed the failure of another worker
        raise
    watchdog.stop()
    coordinator.publish_end()


def lead_job(job: Job) -> None:
    """Run a job in all workers; return when all have done it.

    Raises:
        RmrkdError: The first error of all workers.
    """
    coordinator = current_coordinator()
    assert coordinator is not None
    _ = coordinator.members  # wait for all
    coordinator.publish(job_to_json(job))
    try:
        if not isinstance(job, PrepareJob):  # the command itself has prepared this machine
            run_job(job)
        coordinator.wait_until_done()
    except RmrkdError:
        raise
    except Exception as error:
        if not is_lost_worker(error):
            raise
        raise _reason(coordinator) from error


def _reason(coordinator: Coordinator) -> RmrkdError:
    """Return why a collective operation has failed in this process."""
    try:
        if error := coordinator.wait_for_error(_ERROR_SECONDS):
            return error
        return find_lost_peer(coordinator.local_peers) or RunError(
            "lost the connection to another worker",
            "see its output; run the same command with --resume to continue from the last checkpoint",
        )
    except (RuntimeError, ConnectionError):
        return connection_lost(coordinator.worker)


def _killed_before(error: BaseException, coordinator: Coordinator) -> RmrkdError | None:
    """Return the loss of a worker after which the launcher has sent a signal to this process, or None."""
    stopped = isinstance(error, SystemExit) and received_exit_signal()
    return find_lost_peer(coordinator.local_peers) if stopped else None


def follow(worker: ExternalWorker) -> int:
    """Run the jobs of rank 0 until it ends; return the exit code. Rank 0 prints the errors."""
    coordinator, stop = connect(worker), StopRequest()
    try:
        for signum in handled_signals():
            signal.signal(signum, stop)  # a training sets its own handlers meanwhile
        _watch(coordinator, lambda error: os._exit(error.exit_code), stop)
        loader_server.start_loader_server()
        while (text := coordinator.wait_for_job()) is not None:
            _run(job_from_json(text), coordinator)
            coordinator.acknowledge()
        coordinator.leave()
    except Exception as error:
        code = report_failure(coordinator, error)
        with suppress(RuntimeError, ConnectionError):
            coordinator.leave()
        return code
    return 0


def _run(job: Job, coordinator: Coordinator) -> None:
    if isinstance(job, PrepareJob):
        on_first_machine = coordinator.worker.machine == coordinator.members[0].machine
        if on_first_machine or not coordinator.leads_machine:
            return
    elif isinstance(job, TrainJob) and job.image_cache is not None:
        job = replace(job, image_cache=coordinator.image_cache(job.image_cache))
    run_job(job)


def _watch(
    coordinator: Coordinator, end_process: Callable[[RmrkdError], object], stop: StopRequest | None = None
) -> Watchdog:
    """Start a thread that ends this process after an error of another worker, or after a signal in `stop`."""
    store = coordinator.connect()

    def read_error() -> RmrkdError | None:
        if stop is not None and stop.signum:
            name = signal.Signals(stop.signum).name
            stopped = Interrupted(stop.signum, f"stopped by {name}", "run the same command with --resume")
            return _report(coordinator, stopped, store)
        try:
            coordinator.welcome(store)
            return coordinator.read_error(store)
        except (RuntimeError, ConnectionError):
            return connection_lost(coordinator.worker)

    def peers() -> dict[int, int]:
        with suppress(RuntimeError, ConnectionError):
            return coordinator.local_peers(store)
        return {}

    def end(error: RmrkdError) -> None:
        first = _report(coordinator, error, store)
        with suppress(RuntimeError, ConnectionError):
            coordinator.leave(store)
        end_process(first)

    watchdog = Watchdog(read_error, peers, end)
    watchdog.start()
    return watchdog


def _report(coordinator: Coordinator, error: RmrkdError, store: Any) -> RmrkdError:
    """Tell the other workers of an error; return the first error of all."""
    with suppress(RuntimeError, ConnectionError):
        coordinator.write(error, store=store)
        return coordinator.read_error(store) or error
    return error


def _describe(error: BaseException) -> RmrkdError:
    """Return what the other workers learn of the exception that ends rank 0."""
    if isinstance(error, RmrkdError):
        return error
    described = RunError(f"worker 0 ended: {type(error).__name__}")
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        described.exit_code = error.code
    elif isinstance(error, KeyboardInterrupt):
        described.exit_code = 130
    return described
