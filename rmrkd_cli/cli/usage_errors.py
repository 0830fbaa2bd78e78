"""Turn Typer's usage errors into errors of rmrkd, with the value and the most similar name."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from rmrkd_cli.cli.other_names import name_here
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.terminal.text import shorten_value

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")  # values that other tools give to switches


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


def is_usage_error(error: Exception) -> bool:
    """Return whether Typer raised the error. Typer has no public class for it; older versions use click's."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def explain_usage_error(error: Any, arguments: Sequence[str], get_root: Callable[[], Any]) -> RmrkdError:
    """Return a usage error of Typer as message and hint.

    Args:
        get_root: Returns the root command, for errors that do not name theirs.
    """
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is not None:
        path, command = context.command_path, context.command
    else:
        path, command = _find_command(arguments, get_root)
    text = " ".join(error.format_message().split()).rstrip(".")
    if hasattr(error, "possibilities"):
        text = _explain_unknown_option(error.option_name, command, path)
    elif text.startswith("Got unexpected extra argument"):
        text = _explain_extra_argument(text, command, path)
    elif unknown := re.match("No such command '(.*?)'(?:$|[.])", text):
        text = f"unknown command `{unknown[1]}`, {did_you_mean(unknown[1], getattr(command, 'commands', []))}"
    elif needs_value := re.fullmatch("Option '(.*?)' requires an argument", text):
        text = f"`{needs_value[1]}` requires an argument{_metavar(needs_value[1], command)}"
    elif text.startswith("Missing") and param is not None:
        text = f"{param.param_type_name} `{_name(param)}` is missing"
    elif param is not None:
        text = _explain_value(param, " ".join(str(error.message).split()).rstrip("."), arguments)
    return RmrkdError(text[:1].lower() + text[1:], f"{path} --help")


def _explain_extra_argument(text: str, command: Any, path: str) -> str:
    setting = re.search(r"\(([A-Za-z][\w.-]*)=(.*?)\)?$", text)
    if setting is None:
        return text.replace("argument(s)", "argument")
    name, value = f"--{setting[1]}", setting[2]
    typed = shorten_value(f"{setting[1]}={value}")
    if any(name in param.opts for param in getattr(command, "params", [])):
        return f"`{typed}` is not an option, write `{name} {shorten_value(value)}`"
    explained = _explain_unknown_option(name, command, path)
    return f"`{typed}` is not an option, they have the form `--name VALUE`: {explained}"


def _explain_unknown_option(typed: str, command: Any, path: str) -> str:
    """Return what an unknown option may stand for: a typing error, or an option of another tool."""
    name = shorten_value(typed)
    options = {
        option.lstrip("-"): option
        for param in getattr(command, "params", [])
        for option in (*param.opts, *param.secondary_opts)
        if option.startswith("-")
    } | {"help": "--help"}
    bare = typed.lstrip("-").lower().replace("_", "-")
    if bare in options:
        return f"unknown option `{name}`, did you mean `{options[bare]}`?"
    if here := name_here(getattr(command, "name", None) or "", typed):
        return f"unknown option `{name}`; rmrkd has {here}"
    owner = next((inner for inner in getattr(command, "commands", {}).items() if _has_option(inner[1], typed)), None)
    if owner is not None:
        return f"option `{name}` stands after the command, as in `{path} {owner[0]} {name}`"
    near = difflib.get_close_matches(bare, options, n=1, cutoff=0.6)
    return f"unknown option `{name}`" + (f", did you mean `{options[near[0]]}`?" if near else "")


def _has_option(command: Any, typed: str) -> bool:
    return any(typed in (*param.opts, *param.secondary_opts) for param in getattr(command, "params", []))


def _find_command(arguments: Sequence[str], get_root: Callable[[], Any]) -> tuple[str, Any]:
    """Return the words of the command that the arguments name, such as `rmrkd data check`, and the command."""
    command, words = get_root(), ["rmrkd"]
    for word in arguments:
        inner = getattr(command, "commands", {}).get(word)
        if inner is not None:
            command, words = inner, [*words, word]
    return " ".join(words), command


def _metavar(option: str, command: Any) -> str:
    found = [param.metavar for param in getattr(command, "params", []) if option in param.opts and param.metavar]
    return f": `{option} {found[0]}`" if found else ""


def check_switches(arguments: Sequence[str], get_root: Callable[[], Any]) -> None:
    """Check that no switch is given a value: `--resume true` would be read as a switch and a file.

    Args:
        get_root: Returns the root command. It is called only for arguments that look so, because it takes time.

    Raises:
        RmrkdError: When one is.
    """
    pairs = [
        (name, attached if equals else following)
        for text, following in itertools.pairwise([*arguments, ""])
        for name, equals, attached in [text.partition("=")]
        if name.startswith("--") and (equals or (following.lower() in _YES + _NO and not os.path.lexists(following)))
    ]
    if not pairs:
        return
    _, command = _find_command(arguments, get_root)
    for param in getattr(command, "params", []):
        for name, value in pairs:
            if getattr(param, "is_flag", False) and name in (*param.opts, *param.secondary_opts):
                off = value.lower() in _NO
                hint = f"leave `{name}` out" if off else f"write `{name}` alone"
                raise RmrkdError(f"`{name} {shorten_value(value)}`: `{name}` takes no value", hint)


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
