"""The options of every command for its messages: `--quiet`, `--verbose` and `--log-file`."""

from __future__ import annotations

import inspect
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from rmrkd_cli import __version__
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.output_paths import check_recordable
from rmrkd_cli.terminal.messages import NORMAL, QUIET, VERBOSE, debug, show_messages
from rmrkd_cli.terminal.text import shorten_value

_GROUP = "Messages"
_TIME, _TIME_LENGTH = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), 19  # each message begins with it


def _declare(
    *,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.", rich_help_panel=_GROUP)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print details too.", rich_help_panel=_GROUP)
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file",
            help="Write all messages, with the time, to the end of this file.",
            rich_help_panel=_GROUP,
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Set up the messages of a command.

    Raises:
        RmrkdError: If `--quiet` and `--verbose` are given, or the file cannot be written.
    """
    if quiet and verbose:
        raise RmrkdError("--quiet and --verbose exclude each other", "give one of them")
    if log_file is not None:
        _check_log_file(log_file)
    show_messages(QUIET if quiet else VERBOSE if verbose else NORMAL, log_file)
    debug(f"rmrkd {__version__}, Python {platform.python_version()}: {shlex.join(sys.argv[1:])}")


def _check_log_file(path: Path) -> None:
    """Raise RmrkdError for a path that messages cannot be added to, or that holds something else than messages."""
    check_recordable(path, "--log-file")
    hint = "--log-file messages.txt"
    try:
        if not os.path.lexists(path):
            return
        if not path.is_file():
            raise RmrkdError(f"`{shorten_value(path)}` is not a file", hint)
        with path.open("rb") as file:
            begin = file.read(_TIME_LENGTH)
    except OSError as error:
        raise RmrkdError(f"`{shorten_value(path)}` cannot be written: {error.strerror}", hint) from error
    if begin and not _TIME.fullmatch(begin):
        raise RmrkdError(f"`{shorten_value(path)}` exists, and is no file of messages", f"name a new file: {hint}")


def with_message_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command; they are applied before it runs."""
    own = inspect.signature(_declare)

    @wraps(command)
    def applied(**values: Any) -> None:
        _declare(**{name: values.pop(name) for name in own.parameters})
        command(**values)

    hints = {
        **get_type_hints(command, include_extras=True),
        **get_type_hints(_declare, include_extras=True),
    }
    params = [
        one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for signature in (inspect.signature(command), own)
        for one in signature.parameters.values()
    ]
    applied.__signature__ = inspect.Signature(params, return_annotation=None)  # type: ignore[attr-defined]
    applied.__annotations__ = {param.name: param.annotation for param in params}
    return applied
