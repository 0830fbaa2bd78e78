"""The command line: all commands, the global options, and the exit code of every error."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from rmrkd_cli import __version__
from rmrkd_cli.cli.cache_teacher import cache_teacher_command
from rmrkd_cli.cli.command import Command, CommandGroup
from rmrkd_cli.cli.compare import compare_command
from rmrkd_cli.cli.data import data_app
from rmrkd_cli.cli.doctor import doctor_command
from rmrkd_cli.cli.eval import eval_command
from rmrkd_cli.cli.export import export_command
from rmrkd_cli.cli.init import init_command
from rmrkd_cli.cli.message_options import with_message_options
from rmrkd_cli.cli.methods import methods_command
from rmrkd_cli.cli.networks import networks_command
from rmrkd_cli.cli.plot import plot_command
from rmrkd_cli.cli.predict import predict_command
from rmrkd_cli.cli.presets import presets_command
from rmrkd_cli.cli.recipes import recipes_command
from rmrkd_cli.cli.setup import setup_command
from rmrkd_cli.cli.train import train_command
from rmrkd_cli.cli.transfer import transfer_command
from rmrkd_cli.cli.tune import tune_command
from rmrkd_cli.cli.usage_errors import (
    check_arguments,
    check_switches,
    explain_usage_error,
    is_usage_error,
)
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.signals import own_signals
from rmrkd_cli.terminal.messages import log_error, show_messages
from rmrkd_cli.terminal.sanitize import escape_control, install_output_guard
from rmrkd_cli.terminal.text import shorten_value

_WITH_WORKERS = ("train", "eval", "compare", "cache-teacher")  # commands
# Errors of the operating system that only a wrong path on the command line causes.
_WRONG_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)

app = typer.Typer(
    name="rmrkd",
    cls=CommandGroup,
    help="""Distil a large semantic segmentation network into a small one, and measure what distillation gains.

For everyone who has a trained teacher, or trains one, and needs a student that is small enough to deploy. RMRKD and
other published methods; networks of mmsegmentation, torchvision, segmentation_models_pytorch, transformers or your own
code, and teachers that are ONNX or TorchScript files.

Start with: rmrkd train --preset demo

Examples:
  rmrkd train --preset demo
  rmrkd train --help
""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_TRAIN, _USE, _LOOK_UP, _SET_UP = "Train and measure", "Use a student", "Presets and methods", "Set up and check"
app.command("train", cls=Command, rich_help_panel=_TRAIN)(with_message_options(train_command))
app.command("eval", cls=Command, rich_help_panel=_TRAIN)(with_message_options(eval_command))
app.command("compare", cls=Command, rich_help_panel=_TRAIN)(with_message_options(compare_command))
app.command("cache-teacher", cls=Command, rich_help_panel=_TRAIN)(with_message_options(cache_teacher_command))
app.command("tune", cls=Command, rich_help_panel=_TRAIN)(with_message_options(tune_command))
app.command("plot", cls=Command, rich_help_panel=_TRAIN)(with_message_options(plot_command))
app.command("transfer", cls=Command, rich_help_panel=_USE)(with_message_options(transfer_command))
app.command("predict", cls=Command, rich_help_panel=_USE)(with_message_options(predict_command))
app.command("export", cls=Command, rich_help_panel=_USE)(with_message_options(export_command))
app.command("presets", cls=Command, rich_help_panel=_LOOK_UP)(with_message_options(presets_command))
app.command("methods", cls=Command, rich_help_panel=_LOOK_UP)(with_message_options(methods_command))
app.command("recipes", cls=Command, rich_help_panel=_LOOK_UP)(with_message_options(recipes_command))
app.command("networks", cls=Command, rich_help_panel=_LOOK_UP)(with_message_options(networks_command))
app.command("init", cls=Command, rich_help_panel=_SET_UP)(with_message_options(init_command))
app.command("setup", cls=Command, rich_help_panel=_SET_UP)(with_message_options(setup_command))
app.command("doctor", cls=Command, rich_help_panel=_SET_UP)(with_message_options(doctor_command))
app.add_typer(data_app, name="data", rich_help_panel=_SET_UP)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"rmrkd {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command. Print every error that the user can fix as message and hint, and exit with its code."""
    install_output_guard()
    own_signals()
    show_messages()  # options of a command may change this
    arguments = sys.argv[1:]
    try:
        with _workers_of_another_launcher(arguments):
            code = _run_app(arguments)
    except RmrkdError as error:
        _print_and_exit(error, arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    if isinstance(code, int) and code:  # from typer.Exit
        sys.exit(code)


def _run_app(arguments: Sequence[str]) -> object:
    """Run a command and return its result, or the exit code of typer.Exit.

    Raises:
        RmrkdError: For every error that the user can fix.
    """
    try:
        check_switches(check_arguments(arguments), _root_command)
        return app(arguments, prog_name="rmrkd", standalone_mode=False)
    except OSError as error:  # for example a full disk
        raise _explain_os_error(error) from error
    except Exception as error:
        if isinstance(error, RmrkdError) or not is_usage_error(error):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(str(error))  # the part of the help that rich did not print
            sys.exit(2)
        raise explain_usage_error(error, arguments, _root_command) from error


@contextmanager
def _workers_of_another_launcher(arguments: Sequence[str]) -> Iterator[None]:
    """Let rank 0 run the block if another launcher, such as torchrun, has started several of this command.

    The other ranks do their part of the commands with workers, and nothing for other commands. They exit here.

    Raises:
        RmrkdError: When the launcher's variables are incomplete or invalid, and the command has workers.
    """
    from rmrkd_cli.distributed.external_worker import read_external_worker

    with_workers = arguments[:1] and arguments[0] in _WITH_WORKERS and not {"-h", "--help"} & set(arguments)
    try:
        worker = read_external_worker()
    except RmrkdError:
        if with_workers:
            raise
        worker = None
    if worker is None or (not with_workers and worker.rank == 0):
        yield
        return
    if not with_workers:
        sys.exit(0)
    from rmrkd_cli.distributed import external_run

    if worker.rank:
        sys.exit(external_run.follow(worker))
    with external_run.lead(worker):
        yield


def _root_command() -> Any:
    return typer.main.get_command(app) if isinstance(app, typer.Typer) else app  # tests build it once


def _print_and_exit(error: RmrkdError, arguments: Sequence[str]) -> NoReturn:
    """Print the error and exit.

    Arguments in it are escaped here, so that a line break in an argument begins no line of the message.
    """
    from rmrkd_cli.terminal.console import print_error

    for text in arguments:
        for part in (text, text.partition("=")[2]):
            if part and escape_control(part) != part:
                error.message = error.message.replace(part, escape_control(part))
                error.hint = error.hint.replace(part, escape_control(part))
    print_error(error)
    log_error("; ".join(filter(None, (error.message, error.hint))))
    sys.exit(error.exit_code)


def _explain_os_error(error: OSError) -> RmrkdError:
    kind = RmrkdError if error.errno in _WRONG_PATH else RunError
    file = f": `{shorten_value(os.fsdecode(error.filename))}`" if isinstance(error.filename, (str, bytes)) else ""
    return kind(f"{error.strerror or error}{file}")
