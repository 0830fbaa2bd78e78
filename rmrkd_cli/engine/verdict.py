"""What workers tell of their errors: to the process that launched them, and to those that are started after them.

Knows the standard library alone, so that a worker that has nothing left to do ends before it loads anything.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from rmrkd_cli.errors import Interrupted, RmrkdError, RunError

ERRORS = "RMRKD_ERRORS"  # the folder where they are left
_FINAL = ".error.json"
_PASSING = ".error-of-attempt.json"


class Verdicts:
    """The first error of all workers.

    A final one was explained (a wrong input, a signal, a full disk): to try again would meet it again. A passing one
    may be the loss of another worker, or of a machine; launchers start all workers again after it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_this_process(cls) -> Verdicts:
        return cls(Path(os.environ[ERRORS]))

    @property
    def final(self) -> bool:
        return (self.folder / _FINAL).is_file()

    def clear(self) -> None:
        for name in (_FINAL, _PASSING):
            (self.folder / name).unlink(missing_ok=True)

    def tell(self, error: RmrkdError, *, final: bool) -> bool:
        """Leaves an error; False where another worker was first."""
        target = self.folder / (_FINAL if final else _PASSING)
        told = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        if isinstance(error, Interrupted):
            told["signum"] = error.signum
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(told), encoding="utf-8")
        try:
            os.link(partial, target)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def error(self) -> RmrkdError | None:
        """The final one if there is any, else the passing one."""
        for name in (_FINAL, _PASSING):
            try:
                told = json.loads((self.folder / name).read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            if "signum" in told:
                return Interrupted(told["signum"], told["message"], told["hint"])
            return (RunError if told["exit_code"] == 1 else RmrkdError)(told["message"], told["hint"])
        return None

    def take_passing(self) -> str:
        """The message of the attempt before this one, once; empty where there is none."""
        found = self.folder / _PASSING
        try:
            message = str(json.loads(found.read_text(encoding="utf-8"))["message"])
            found.unlink()
        except (FileNotFoundError, ValueError, KeyError):
            return ""
        return message
