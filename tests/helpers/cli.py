"""Run the command line inside the test process."""

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

# Built once; Typer would build all commands for every call.
COMMAND = typer.main.get_command(app)


@dataclass
class Outcome:
    """Exit code, stdout, and the error's message and hint."""

    exit_code: int
    stdout: str
    message: str = ""
    hint: str = ""


def rmrkd(*arguments: object) -> Outcome:
    """Run a command line; raise any exception that is not a RmrkdError."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    error = result.exception
    if isinstance(error, RmrkdError):
        return Outcome(error.exit_code, result.stdout, error.message, error.hint)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return Outcome(result.exit_code, result.stdout)


def run_main(*arguments: str, encoding: str = "utf-8") -> tuple[int, str, str]:
    """Run `rmrkd …` and return exit code, stdout and stderr; raise any exception that is not handled."""
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
