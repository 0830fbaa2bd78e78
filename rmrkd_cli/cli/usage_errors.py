"""What a user typed that no command understands, in the words of our own errors."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from rmrkd_cli.errors import RmrkdError, did_you_mean

_MAX_SHOWN = 200
_CHOICES = re.compile(r"is not one of (.+?)\.?$", re.DOTALL)


def check_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments, which no file system call may refuse as text.

    Raises:
        RmrkdError: When one holds NUL, or characters that are none.
    """
    for number, text in enumerate(arguments, 1):
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise RmrkdError(f"argument {number} `{cut(text)}` is not text of this system") from None
        if "\0" in text:
            raise RmrkdError(f"argument {number} `{cut(text)}` holds the character NUL")
    return list(arguments)


def cut(text: str) -> str:
    """Text for a message, of whatever length it is."""
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def is_usage_error(error: Exception) -> bool:
    """Whether Typer raised it; its classes are not public, and another package's in older versions."""
    return callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code")


def explain(error: Any, arguments: Sequence[str]) -> RmrkdError:
    """Typer's usage error as message and hint, with the value met and what is nearest to it."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    known = list(getattr(command, "commands", {}))
    words = [text for text in arguments if not text.startswith("-")]
    path = getattr(context, "command_path", None) or " ".join(["rmrkd", *map(cut, words[:1])])
    met = next(iter(words[len(path.split()) - 1 :]), None)
    hint = f"{path} --help"
    if known and met is not None and met not in known:
        return RmrkdError(f"unknown command `{cut(met)}`, {did_you_mean(cut(met), known)}", hint)
    parameter = getattr(error, "param", None)
    if hasattr(error, "possibilities"):
        options = [name for other in getattr(command, "params", []) for name in other.opts if name.startswith("-")]
        name = cut(error.option_name)
        return RmrkdError(f"unknown option `{name}`, {did_you_mean(name, [*options, '--help'])}", hint)
    if parameter is not None and "MissingParameter" in type(error).__name__:
        return RmrkdError(f"{parameter.param_type_name} `{_name(parameter)}` is missing", hint)
    if parameter is not None:
        return RmrkdError(_about_value(error, parameter, arguments), hint)
    return RmrkdError(_sentence(error.format_message()), hint)


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    return str(max(parameter.opts, key=len))


def _about_value(error: Any, parameter: Any, arguments: Sequence[str]) -> str:
    name, said = _name(parameter), str(error.message).removeprefix("Value error, ")
    value = _given(parameter, arguments)
    shown = name if value is None else f"{name} {cut(value)}"
    choices = _CHOICES.search(said)
    if choices and value is not None:
        allowed = re.findall(r"'([^']*)'", choices[1])
        return f"`{shown}`: must be {', '.join(f'`{choice}`' for choice in allowed)}; {did_you_mean(value, allowed)}"
    return f"`{shown}`: {_sentence(said)}"


def _given(parameter: Any, arguments: Sequence[str]) -> str | None:
    """The last value of an option on the command line."""
    found = None
    for text, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = text.partition("=")
        if name in parameter.opts:
            found = value if equals else following
    return found


def _sentence(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    text = re.sub(r", unable to parse .*", "", text).replace("Input should be", "must be")
    text = re.sub(r"'(-[\w-]+)'", r"`\1`", text)
    return cut(text[:1].lower() + text[1:])
