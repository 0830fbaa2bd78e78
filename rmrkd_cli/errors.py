"""The errors a user can meet: a message, and the next thing to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rmrkd_cli.signals import exit_code


class RmrkdError(Exception):
    """A failure that is explained to the user instead of traced.

    Args:
        message: What is wrong, with the value met and what was expected.
        hint: The next thing to do, usually a command; may be empty.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)  # both, so that it survives pickling between processes
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class RunError(RmrkdError):
    """The input was right and the run failed all the same (exit code 1)."""

    exit_code = 1


class CorruptError(RunError):
    """An image or label file that cannot be read, or is damaged; label values that are no class are none of it.

    Attributes:
        path: Of the file.
    """

    def __init__(self, message: str, hint: str = "", path: str = "") -> None:
        super().__init__(message, hint)
        self.args = (message, hint, path)
        self.path = path


class LostError(RunError):
    """A process that the run needs was ended from outside; the same again may well succeed."""


class Interrupted(RmrkdError):
    """A signal ended the run after its state was saved (exit code 130 or 143)."""

    def __init__(self, signum: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.args = (signum, message, hint)
        self.signum = signum
        self.exit_code = exit_code(signum)


def first_line(error: BaseException) -> str:
    """Of another package's error, whose further lines are for its developers; its class where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Says which known name is nearest to `name`, or lists them all when none is near."""
    known = sorted(set(options))
    lowered = {option.lower(): option for option in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{lowered[near[0]]}`?"
    return "known: " + ", ".join(known) if known else ""
