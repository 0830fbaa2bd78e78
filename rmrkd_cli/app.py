"""The command line: commands, global options, and the one place that exits."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rmrkd_cli import __version__
from rmrkd_cli.commands.compare import compare_command
from rmrkd_cli.commands.data import data_app
from rmrkd_cli.commands.doctor import doctor_command
from rmrkd_cli.commands.evaluate import eval_command
from rmrkd_cli.commands.presets import presets_command
from rmrkd_cli.commands.train import train_command
from rmrkd_cli.commands.transfer import transfer_command
from rmrkd_cli.errors import RmrkdError, RunError

app = typer.Typer(
    name="rmrkd",
    help="Distil a large segmentation network into a small one with RMRKD.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("transfer")(transfer_command)
app.command("compare")(compare_command)
app.command("presets")(presets_command)
app.add_typer(data_app, name="data")
app.command("doctor")(doctor_command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rmrkd {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command; an RmrkdError becomes a message, a hint and its exit code."""
    try:
        app()
    except RmrkdError as error:
        from rmrkd_cli.console import show_error

        show_error(error)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder without permission
        from rmrkd_cli.console import show_error

        show_error(RunError(f"{error.strerror or error}" + (f": `{error.filename}`" if error.filename else "")))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
