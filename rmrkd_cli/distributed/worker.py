"""`python -m rmrkd_cli.distributed.worker JOB`: one worker process under torch's launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from rmrkd_cli.distributed.worker_errors import LAUNCHER, WorkerErrors
from rmrkd_cli.errors import LostError, RmrkdError, RunError
from rmrkd_cli.signals import exit_on_stops

_SET_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def main(job_file: str) -> int:
    """Runs the job; leaves the first error of all workers where the launching process reads it."""
    exit_on_stops(at_once=True)  # until the run itself catches them
    _die_with_the_launcher()
    verdicts = WorkerErrors.of_this_process()
    from rmrkd_cli.distributed.job import read_job
    from rmrkd_cli.distributed.launcher import run_job

    try:
        run_job(read_job(Path(job_file)))
    except RmrkdError as error:
        verdicts.tell(error, final=not isinstance(error, LostError))
        return error.exit_code
    except OSError as error:
        verdicts.tell(RunError(str(error)), final=True)
        return 1
    except Exception as error:
        if _lost_another(error):
            verdicts.tell(RunError("a worker does not answer the others any more"), final=False)
        elif verdicts.tell(RunError(f"{type(error).__name__}: {error}"), final=True):
            traceback.print_exc()
        return 1
    return 0


def _die_with_the_launcher() -> None:
    """A launcher that is killed can stop nobody, and its workers would go on writing beside their successors."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != int(os.environ[LAUNCHER]):  # it died before this could be asked for
            os._exit(1)


def _lost_another(error: Exception) -> bool:
    """Whether the error only says that another worker is gone; gloo has no class of its own for that."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(word in str(error) for word in ("gloo", "Connection reset by peer"))


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not through the process group's teardown, which can wait for workers that are gone
