"""The command line: commands, global options, and the one place that exits."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from rmrkd_cli import __version__
from rmrkd_cli.cli.compare import compare_command
from rmrkd_cli.cli.data import data_app
from rmrkd_cli.cli.doctor import doctor_command
from rmrkd_cli.cli.eval import eval_command
from rmrkd_cli.cli.export import export_command
from rmrkd_cli.cli.methods import methods_command
from rmrkd_cli.cli.plot import plot_command
from rmrkd_cli.cli.predict import predict_command
from rmrkd_cli.cli.presets import presets_command
from rmrkd_cli.cli.setup import setup_command
from rmrkd_cli.cli.train import train_command
from rmrkd_cli.cli.transfer import transfer_command
from rmrkd_cli.cli.usage_errors import check_arguments, cut, explain, is_usage_error
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.terminal.sanitize import escape_control, install_output_guard

_WRONG_NAME = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)  # what only the user's words can cause

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
app.command("plot")(plot_command)
app.command("predict")(predict_command)
app.command("export")(export_command)
app.command("presets")(presets_command)
app.command("methods")(methods_command)
app.add_typer(data_app, name="data")
app.command("doctor")(doctor_command)
app.command("setup")(setup_command)


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
    """Runs the command; whatever a user did wrong becomes a message, a hint and an exit code."""
    install_output_guard()
    arguments = sys.argv[1:]
    try:
        code = app(check_arguments(arguments), prog_name="rmrkd", standalone_mode=False)
    except RmrkdError as error:
        _leave(error, arguments)
    except OSError as error:  # a full disk, a folder without permission
        _leave(_explained(error), arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not is_usage_error(error):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # the help was shown
            sys.exit(2)
        _leave(explain(error, arguments), arguments)
    if isinstance(code, int) and code:  # of typer.Exit
        sys.exit(code)


def _leave(error: RmrkdError, arguments: Sequence[str]) -> NoReturn:
    from rmrkd_cli.terminal.console import show_error

    for text in arguments:  # a line break of theirs begins no line of ours
        for part in (text, text.partition("=")[2]):
            if part and escape_control(part) != part:
                error.message = error.message.replace(part, escape_control(part))
                error.hint = error.hint.replace(part, escape_control(part))
    show_error(error)
    sys.exit(error.exit_code)


def _explained(error: OSError) -> RmrkdError:
    kind = RmrkdError if error.errno in _WRONG_NAME else RunError
    named = f": `{cut(os.fsdecode(error.filename))}`" if isinstance(error.filename, (str, bytes)) else ""
    return kind(f"{error.strerror or error}{named}")
