"""Errors of worker processes, left in files for the process that launched them.

Imports neither torch nor any package that does, so that it works when these fail.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from rmrkd_cli.errors import Interrupted, RmrkdError, RunError
from rmrkd_cli.storage.atomic import create_bytes
from rmrkd_cli.terminal.sanitize import escape_message

ERRORS = "RMRKD_ERRORS"  # environment variable: where workers write their errors
LAUNCHER = "RMRKD_LAUNCHER"  # environment variable: process id of the launcher
_WORKER = "worker-"  # a port and a rank follow: the file of a worker's process id


def error_to_json(error: RmrkdError) -> str:
    """Return an error as JSON, for `error_from_json` in another process."""
    entry = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return json.dumps(entry | ({"signum": error.signum} if isinstance(error, Interrupted) else {}))


def error_from_json(text: str) -> RmrkdError:
    """Return the error that `error_to_json` wrote."""
    entry = json.loads(text)
    if "signum" in entry:
        return Interrupted(entry["signum"], entry["message"], entry["hint"])
    error = (RunError if entry["exit_code"] == 1 else RmrkdError)(entry["message"], entry["hint"])
    error.exit_code = entry["exit_code"]
    return error


class WorkerErrors:
    """The first error of a run's workers, in one file for fatal and one for retryable errors.

    A fatal error would happen again: a wrong input, a signal, a full disk, a bug. A retryable error is the loss of
    another worker or machine; the launchers then restart all workers.

    torch's `@record` also writes a worker's exception to a file. It knows neither these two kinds nor hints and exit
    codes, and only the launcher of the same machine reads its file.

    Args:
        local_dir: A folder of this machine.
        shared_dir: A folder that all machines see; None with one machine. Only fatal errors are written there.
        token: Identifies this start of the run.
        port: Where the workers of one start of torch's agent meet. The agent also replaces all workers when a machine
            joins again; the new ones must not take the old ones for lost.
    """

    def __init__(self, local_dir: Path, shared_dir: Path | None = None, token: str = "", port: str = "") -> None:
        self.local_dir, self.shared_dir, self.token, self.port = local_dir, shared_dir, token, port

    @classmethod
    def from_environment(cls) -> WorkerErrors:
        """Return what the launcher passed in the environment variable `ERRORS`."""
        local_dir, shared_dir, token = json.loads(os.environ[ERRORS])
        return cls(Path(local_dir), Path(shared_dir) if shared_dir else None, token, os.environ.get("MASTER_PORT", ""))

    @property
    def environment(self) -> str:
        """Value of the environment variable `ERRORS`, for `from_environment`."""
        return json.dumps([str(self.local_dir), str(self.shared_dir or ""), self.token])

    @property
    def fatal(self) -> bool:
        """Whether any worker left a fatal error."""
        return any(path.is_file() for path in self._files(fatal=True))

    def clear(self) -> None:
        """Remove the files of every start of the run."""
        for folder in filter(None, (self.local_dir, self.shared_dir)):
            for path in folder.glob(".error-*"):
                path.unlink(missing_ok=True)

    def register(self, rank: int) -> None:
        """Let the other workers of this machine know this process, until `deregister`."""
        create_bytes(str(os.getpid()).encode(), self._process_file(rank))

    def deregister(self, rank: int) -> None:
        """Let the others know that this worker has done its job, and will end."""
        self._process_file(rank).unlink(missing_ok=True)

    def local_peers(self) -> dict[int, int]:
        """Return rank -> process id of the other workers of this machine that have work to do."""
        peers = {}
        for path in self.local_dir.glob(self._process_file("*").name):
            with suppress(OSError, ValueError):
                peers[int(path.name.rpartition("-")[2])] = int(path.read_text(encoding="ascii"))
        return {rank: pid for rank, pid in peers.items() if pid != os.getpid()}

    def write(self, error: RmrkdError, *, fatal: bool) -> bool:
        """Write an error; return False if another worker of this machine was first."""
        first = True
        for path in self._files(fatal=fatal):
            try:
                first = create_bytes(error_to_json(error).encode(), path) and first
            except OSError as problem:  # for example a full disk, which may be the error itself
                print(f"{escape_message(error.message)} (cannot write `{path}`: {problem.strerror})", file=sys.stderr)
        return first

    def read(self) -> RmrkdError | None:
        """Return the fatal error if there is one, else the retryable one, else None."""
        for path in (*self._files(fatal=True), *self._files(fatal=False)):
            try:
                return error_from_json(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
        return None

    def read_fatal(self) -> RmrkdError | None:
        """Return the fatal error, or None."""
        return self.read() if self.fatal else None

    def clear_retryable(self) -> None:
        """Remove the retryable error, and the workers of the attempt; call it before the next attempt."""
        for path in (*self._files(fatal=False), *self.local_dir.glob(f"{_WORKER}*")):
            path.unlink(missing_ok=True)

    def _process_file(self, rank: int | str) -> Path:
        return self.local_dir / f"{_WORKER}{self.port}-{rank}"

    def _files(self, *, fatal: bool) -> list[Path]:
        name = f".error-{self.token}-{'fatal' if fatal else 'retryable'}.json"
        return [folder / name for folder in filter(None, (self.local_dir, self.shared_dir if fatal else None))]
