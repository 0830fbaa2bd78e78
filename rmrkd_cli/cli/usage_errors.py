"""Turn Typer's usage errors into errors of rmrkd, with the value and the most similar name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.terminal.text import shorten

_MAX_VALUE = 200  # characters


def check_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments if file system calls accept all of them as text.

    Raises:
        RmrkdError: If one contains a null character, or a character that the system cannot encode.
    """
    for number, text in enumerate(arguments, 1):
        try:
            if b"\0" in os.fsencode(text):
                raise RmrkdError(f"argument {number} `{shorten_value(text)}` contains a null character")
        except UnicodeEncodeError:
            raise RmrkdError(f"argument {number} `{shorten_value(text)}` is not text of this system") from None
    return list(arguments)


def shorten_value(text: object) -> str:
    """Return a value for a message, cut after 200 characters."""
    return shorten(text, _MAX_VALUE)


def is_usage_error(error: Exception) -> bool:
    """Return whether Typer raised the error. Typer has no public class for it; older versions use click's."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def explain_usage_error(error: Any, arguments: Sequence[str]) -> RmrkdError:
    """Return a usage error of Typer as message and hint."""
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    path, command = getattr(context, "command_path", "rmrkd"), getattr(context, "command", None)
    text = " ".join(error.format_message().split()).rstrip(".")
    if hasattr(error, "possibilities"):
        name = shorten_value(error.option_name)
        options = [option for other in getattr(command, "params", []) for option in other.opts if option[0] == "-"]
        text = f"unknown option `{name}`, {did_you_mean(name, [*options, '--help'])}"
    elif unknown := re.match("No such command '(.*?)'(?:$|[.])", text):
        text = f"unknown command `{unknown[1]}`, {did_you_mean(unknown[1], getattr(command, 'commands', []))}"
    elif text.startswith("Missing") and param is not None:
        text = f"{param.param_type_name} `{_name(param)}` is missing"
    elif param is not None:
        text = _explain_value(param, " ".join(str(error.message).split()).rstrip("."), arguments)
    return RmrkdError(text[:1].lower() + text[1:], f"{path} --help")


def _explain_value(param: Any, text: str, arguments: Sequence[str]) -> str:
    """Return what is wrong with a parameter's value: its name, the value, and what is allowed."""
    value = _last_value(param, arguments)
    text = re.sub(", unable to parse .*", "", text.removeprefix("Value error, ")).replace("Input should be", "must be")
    if value is None:
        return f"`{_name(param)}`: {text}"
    if choices := re.search("is not one of (.+)", text):
        allowed = re.findall("'([^']*)'", choices[1])
        text = f"must be {', '.join(f'`{choice}`' for choice in allowed)}; {did_you_mean(value, allowed)}"
    return f"`{_name(param)} {shorten_value(value)}`: {text}"


def _last_value(param: Any, arguments: Sequence[str]) -> str | None:
    value = None
    for text, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, attached = text.partition("=")
        if name in param.opts:
            value = attached if equals else following
    return value


def _name(param: Any) -> str:
    return str(param.metavar or param.name) if param.param_type_name == "argument" else str(max(param.opts, key=len))
