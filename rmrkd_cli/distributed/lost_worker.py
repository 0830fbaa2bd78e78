"""The exception that ends a worker: its own error, or only the loss of another worker."""

from __future__ import annotations

import re
import traceback
from typing import Protocol

from rmrkd_cli.distributed.external_worker import ExternalWorker
from rmrkd_cli.errors import RmrkdError, RunError, WorkerLostError

_GLOO = re.compile(r"\[[^\]\s]*\bgloo/[^\]\s]*\.(?:cc|cpp|h):[0-9]+\]|Connection reset by peer")


class ErrorWriter(Protocol):
    def write(self, error: RmrkdError, *, fatal: bool) -> bool:
        """Write an error for the process that prints it; return False if another worker was first."""


def report_failure(errors: ErrorWriter, error: Exception) -> int:
    """Write the exception that ends this worker, and return the exit code."""
    if isinstance(error, RmrkdError):
        errors.write(error, fatal=not isinstance(error, WorkerLostError))
        return error.exit_code
    if isinstance(error, OSError):
        errors.write(RunError(str(error)), fatal=True)
    elif is_lost_worker(error):
        errors.write(RunError("lost the connection to another worker"), fatal=False)
    elif errors.write(RunError(f"{type(error).__name__}: {error}"), fatal=True):
        traceback.print_exception(error)
    return 1


def is_lost_worker(error: Exception) -> bool:
    """Return whether an error means only that another worker is gone.

    gloo raises RuntimeError for that, with the line of its source: `[…/gloo/transport/tcp/pair.cc:545] Read error`.
    """
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and bool(_GLOO.search(str(error))))


def connection_lost(worker: ExternalWorker) -> RmrkdError:
    """Return the error of a store of another launcher's workers that does not answer any more."""
    if worker.launcher_has_store:
        return WorkerLostError(
            f"lost the connection to the launcher at {worker.host}:{worker.port}",
            "see its output; start it again with --resume to continue from the last checkpoint",
        )
    return WorkerLostError("lost the connection to worker 0", "see its output")
