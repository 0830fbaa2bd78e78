"""Errors with a message and a hint for the user, and the exit code of each kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rmrkd_cli.signals import exit_code

_MAX_LISTED = 20  # names in a message
_MIN_PART = 4  # letters of a name that may be a part of another


class RmrkdError(Exception):
    """Wrong usage or wrong input: shown as a message and a hint, without a traceback (exit code 2).

    Args:
        message: What is wrong, the value, and what is allowed. Further lines are indented by two spaces.
        hint: The command or setting that fixes it; may be empty.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)  # both arguments, so that pickle can rebuild the error in another process
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class RunError(RmrkdError):
    """The usage and the input were right, and the run failed (exit code 1)."""

    exit_code = 1


class CorruptFileError(RunError):
    """An image, label or video file is damaged or cannot be read.

    Label values that are no class are another error.

    Attributes:
        path: The file.
    """

    def __init__(self, message: str, hint: str = "", path: str = "") -> None:
        super().__init__(message, hint)
        self.args = (message, hint, path)
        self.path = path


class DownloadError(RmrkdError):
    """A file cannot be downloaded.

    Args:
        url: Its address.
        reason: The cause in words.
        target: Where the user can save the file.
        alternative: What else the user can do; may be empty.
        kept: Bytes received so far, which the next attempt continues.
    """

    def __init__(self, url: str, reason: str, target: str, alternative: str = "", kept: int = 0) -> None:
        resume = f"; the same command resumes after the first {kept} bytes" if kept else ""
        super().__init__(
            f"cannot download {url} ({reason})",
            f"download it by other means and save it as `{target}`"
            + (f"; or {alternative}" if alternative else "")
            + resume,
        )
        self.args = (url, reason, target, alternative, kept)
        self.url, self.reason, self.target, self.alternative = url, reason, target, alternative


class WorkerLostError(RunError):
    """A process that the run needs was killed from outside; a restart can succeed."""


class Interrupted(RmrkdError):
    """A signal stopped the run after its state was saved (exit code 130 or 143)."""

    def __init__(self, signum: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.args = (signum, message, hint)
        self.signum = signum
        self.exit_code = exit_code(signum)


def summarize_error(error: BaseException) -> str:
    """Return the first line of an exception's text, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return "did you mean `X`?" with the option most similar to `name`.

    If none is similar, return the list of all, or of more than 20 the five nearest.
    """
    known = sorted(set(options))
    by_lowercase = {option.lower(): option for option in known}
    similar = difflib.get_close_matches(name.lower(), by_lowercase, n=1, cutoff=0.5)
    if not similar and len(name) >= _MIN_PART:  # `lraspp` stands for `lraspp_mobilenet_v3_large`
        similar = [option for option in by_lowercase if name.lower() in option][:1]
    if similar:
        return f"did you mean `{by_lowercase[similar[0]]}`?"
    if len(known) > _MAX_LISTED:
        nearest = difflib.get_close_matches(name.lower(), by_lowercase, n=5, cutoff=0.0)
        return f"the nearest of {len(known)}: " + ", ".join(by_lowercase[option] for option in nearest)
    return "known: " + ", ".join(known) if known else ""
