"""Runs the real app inside the test process, with errors shown as `main` shows them."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

import typer
from typer.testing import CliRunner

from rmrkd_cli.cli.app import app, main
from rmrkd_cli.errors import RmrkdError

# Typer would build all commands anew for every call.
COMMAND = typer.main.get_command(app)


@dataclass
class Outcome:
    exit_code: int
    stdout: str
    message: str = ""
    hint: str = ""


def rmrkd(*arguments: object) -> Outcome:
    """The outcome of one command line; any exception that is not a message to the user is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    error = result.exception
    if isinstance(error, RmrkdError):
        return Outcome(error.exit_code, result.stdout, error.message, error.hint)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return Outcome(result.exit_code, result.stdout)


def run_main(*arguments: str, encoding: str = "utf-8") -> tuple[int, str, str]:
    """What a user meets: exit code, stdout and stderr of `rmrkd …`; any exception that escapes is raised."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in range(2)]
    code: object = 0
    with (
        patch.object(sys, "argv", ["rmrkd", *arguments]),
        patch("rmrkd_cli.cli.app.app", COMMAND),
        redirect_stdout(streams[0]),
        redirect_stderr(streams[1]),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int), code
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return code, texts[0], texts[1]
