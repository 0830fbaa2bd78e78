"""What workers tell of their errors to the process that launched them.

Knows the standard library alone, so that a worker can tell even when nothing else works.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rmrkd_cli.errors import Interrupted, RmrkdError, RunError
from rmrkd_cli.storage.atomic import create_bytes
from rmrkd_cli.terminal.sanitize import escape_lines

ERRORS = "RMRKD_ERRORS"  # the environment's name for the files they are left in
LAUNCHER = "RMRKD_LAUNCHER"  # and for the process that launched them
_SEPARATOR = os.pathsep


class WorkerErrors:
    """The first error of all workers.

    A final one was explained (a wrong input, a signal, a full disk) or is a defect: to try again would meet it again.
    A passing one is the loss of another worker, or of a machine; launchers start all workers again after it.

    Args:
        own: A folder of this machine.
        shared: One that all machines see, where there are several.
        token: Names this start of the run.
    """

    def __init__(self, own: Path, shared: Path | None = None, token: str = "") -> None:
        self.own, self.shared, self.token = own, shared, token

    @classmethod
    def of_this_process(cls) -> WorkerErrors:
        own, shared, token = os.environ[ERRORS].split(_SEPARATOR)
        return cls(Path(own), Path(shared) if shared else None, token)

    @property
    def environment(self) -> str:
        """For workers, who read it with `of_this_process`."""
        return _SEPARATOR.join((str(self.own), str(self.shared or ""), self.token))

    @property
    def final(self) -> bool:
        return any(path.is_file() for path in self._files(final=True))

    def clear(self) -> None:
        """Removes what any start of the run has left."""
        for folder in filter(None, (self.own, self.shared)):
            for path in folder.glob(".error-*"):
                path.unlink(missing_ok=True)

    def tell(self, error: RmrkdError, *, final: bool) -> bool:
        """Leaves an error; False where another worker of this machine was first."""
        told = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        if isinstance(error, Interrupted):
            told["signum"] = error.signum
        first = True
        for path in self._files(final=final):
            try:
                first = create_bytes(json.dumps(told).encode(), path) and first
            except OSError as problem:  # the disk may be full, which may be what is to be told
                print(
                    f"{escape_lines(error.message)} (cannot be left in `{path}`: {problem.strerror})", file=sys.stderr
                )
        return first

    def error(self) -> RmrkdError | None:
        """The final one if there is any, else the passing one."""
        for path in (*self._files(final=True), *self._files(final=False)):
            try:
                told = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if "signum" in told:
                return Interrupted(told["signum"], told["message"], told["hint"])
            return (RunError if told["exit_code"] == 1 else RmrkdError)(told["message"], told["hint"])
        return None

    def forget_passing(self) -> None:
        """Before the next attempt."""
        for path in self._files(final=False):
            path.unlink(missing_ok=True)

    def _files(self, *, final: bool) -> list[Path]:
        name = f".error-{self.token}-{'final' if final else 'passing'}.json"
        return [folder / name for folder in filter(None, (self.own, self.shared if final else None))]
