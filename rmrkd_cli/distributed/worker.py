"""`python -m rmrkd_cli.distributed.worker JOB`: one worker process of torch's launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from rmrkd_cli.distributed.lost_worker import report_failure
from rmrkd_cli.distributed.watchdog import Watchdog
from rmrkd_cli.distributed.worker_errors import LAUNCHER, WorkerErrors
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.signals import exit_on_stop_signals
from rmrkd_cli.terminal.messages import show_messages_as_launched
from rmrkd_cli.terminal.sanitize import install_output_guard

_PR_SET_PDEATHSIG = 1


def main(job_file: str) -> int:
    """Run the job and return the exit code; write an error where the launcher reads it."""
    exit_on_stop_signals(at_once=True)  # until the training catches signals itself
    install_output_guard()
    show_messages_as_launched()
    _die_with_launcher()
    errors, rank = WorkerErrors.from_environment(), int(os.environ.get("RANK", "0"))
    errors.register(rank)

    def end_process(error: RmrkdError) -> None:
        report_failure(errors, error)
        os._exit(1)

    watchdog = Watchdog(errors.read_fatal, errors.local_peers, end_process)
    watchdog.start()
    from rmrkd_cli.data import loader_server

    loader_server.start_loader_server()  # before the imports below, beside which it imports
    from rmrkd_cli.distributed.job import read_job, run_job

    try:
        run_job(read_job(Path(job_file)))
    except Exception as error:
        return report_failure(errors, error)
    finally:
        watchdog.stop()
    errors.deregister(rank)
    return 0


def _die_with_launcher() -> None:
    """Let the system kill this process when its launcher dies, before a restarted launcher starts new workers."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[LAUNCHER]):  # it died before the call
            os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # skips the teardown of the process group, which can wait for workers that are gone
