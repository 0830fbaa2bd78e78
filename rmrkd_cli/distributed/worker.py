"""`python -m rmrkd_cli.distributed.worker JOB`: one worker process of torch's launcher."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import traceback
from pathlib import Path

from rmrkd_cli.distributed.worker_errors import LAUNCHER, WorkerErrors
from rmrkd_cli.errors import RmrkdError, RunError, WorkerLostError
from rmrkd_cli.signals import exit_on_stop_signals

_PR_SET_PDEATHSIG = 1


def main(job_file: str) -> int:
    """Run the job and return the exit code; write an error where the launcher reads it."""
    exit_on_stop_signals(at_once=True)  # until the training catches signals itself
    _die_with_launcher()
    errors = WorkerErrors.from_environment()
    from rmrkd_cli.distributed.job import read_job
    from rmrkd_cli.distributed.launcher import run_job

    try:
        run_job(read_job(Path(job_file)))
    except RmrkdError as error:
        errors.write(error, fatal=not isinstance(error, WorkerLostError))
        return error.exit_code
    except OSError as error:
        errors.write(RunError(str(error)), fatal=True)
        return 1
    except Exception as error:
        if _lost_other_worker(error):
            errors.write(RunError("lost the connection to another worker"), fatal=False)
        elif errors.write(RunError(f"{type(error).__name__}: {error}"), fatal=True):
            traceback.print_exc()
        return 1
    return 0


def _die_with_launcher() -> None:
    """Let the system kill this process when its launcher dies, before a restarted launcher starts new workers."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[LAUNCHER]):  # it died before the call
            os._exit(1)


def _lost_other_worker(error: Exception) -> bool:
    """Return whether an error means only that another worker is gone. gloo raises RuntimeError for that."""
    from torch.distributed import DistError

    is_gloo = isinstance(error, RuntimeError) and re.search(r"\bgloo\b|Connection reset by peer", str(error))
    return isinstance(error, DistError) or bool(is_gloo)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # skips the teardown of the process group, which can wait for workers that are gone
