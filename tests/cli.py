"""Runs the real app inside the test process, with errors shown as `main` shows them."""

from __future__ import annotations

from dataclasses import dataclass

from typer.testing import CliRunner

from rmrkd_cli.app import app
from rmrkd_cli.errors import RmrkdError


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
