"""Messages: the package writes them to Python's `logging` as `rmrkd_cli`, and the command line prints them.

A program that imports the package sees them where it has set up logging: `logging.basicConfig(level="INFO")`. Control
characters are escaped before, as names of files can have any bytes, and handlers write UTF-8.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.sanitize import escape_message
from rmrkd_cli.terminal.text import shorten_value

LOGGER = logging.getLogger("rmrkd_cli")
QUIET, NORMAL, VERBOSE = -1, 0, 1
_LEVELS = {QUIET: logging.WARNING, NORMAL: logging.INFO, VERBOSE: logging.DEBUG}
_ENVIRONMENT = "RMRKD_MESSAGES"  # for worker processes: verbosity, and the log file after a colon
_FILE_FORM = "%(asctime)s %(levelname)s %(message)s"

err = Console(stderr=True)


def log(text: str) -> None:
    """Write a message."""
    _logger().info("%s", escape_message(text))


def warn(text: str) -> None:
    """Write a warning, which is also shown with `--quiet`."""
    _logger().warning("%s", escape_message(text))


def debug(text: str) -> None:
    """Write a detail, which is shown with `--verbose` and written to the file of `--log-file`."""
    _logger().debug("%s", escape_message(text))


def log_error(text: str) -> None:
    """Write an error that the command line prints itself to the file of `--log-file`."""
    _logger().error("%s", escape_message(text), extra={"printed": True})


@dataclass
class _Shown:
    """What this process shows on its terminal: nothing, until the command line or a worker process starts."""

    messages: bool = False
    progress: bool = False


SHOWN = _Shown()


def _logger() -> logging.Logger:
    """Return the logger, which `logging.config.fileConfig` of another package may have disabled."""
    if SHOWN.messages:
        LOGGER.disabled = False
    return LOGGER


class TerminalHandler(logging.Handler):
    """Prints to stderr, above progress bars. A closed terminal does not end a run."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message, and a warning as such."""
        if getattr(record, "printed", False):
            return
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        with suppress(OSError):
            err.print(Text(prefix + record.getMessage()), highlight=False, soft_wrap=True)


class _FileHandler(logging.FileHandler):
    """Writes each message on one line, and goes on when the disk is full."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\\n")

    def handleError(self, record: logging.LogRecord) -> None:
        """Stop writing, and say so once."""
        LOGGER.removeHandler(self)
        warn(f"`{self.baseFilename}` cannot be written: {sys.exc_info()[1]}; it ends here")


def show_messages(verbosity: int = NORMAL, log_file: Path | None = None) -> None:
    """Print messages and progress to stderr, in this process and in the worker processes it starts.

    Args:
        verbosity: -1 for warnings and errors only, 0, or 1 for details too.
        log_file: Append every message, with the time, to this file.

    Raises:
        RmrkdError: If the file cannot be written.
    """
    for handler in list(LOGGER.handlers):
        if isinstance(handler, (TerminalHandler, _FileHandler)):
            LOGGER.removeHandler(handler)
            handler.close()
    terminal = TerminalHandler(_LEVELS[verbosity])
    LOGGER.addHandler(terminal)
    if log_file is not None:
        try:
            file = _FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise RmrkdError(
                f"`{shorten_value(log_file)}` cannot be written: {error.strerror}",
                "--log-file FILE in a folder that exists",
            ) from error
        file.setFormatter(logging.Formatter(_FILE_FORM))
        LOGGER.addHandler(file)
    LOGGER.setLevel(logging.DEBUG if log_file is not None else terminal.level)
    LOGGER.propagate = False  # a handler of another package would print them again
    SHOWN.messages, SHOWN.progress = True, verbosity > QUIET
    os.environ[_ENVIRONMENT] = f"{verbosity}:{log_file.absolute() if log_file is not None else ''}"


def show_messages_as_launched() -> None:
    """Do what `show_messages` did in the process that started this worker."""
    verbosity, _, file = os.environ.get(_ENVIRONMENT, "0:").partition(":")
    show_messages(int(verbosity), Path(file) if file else None)
