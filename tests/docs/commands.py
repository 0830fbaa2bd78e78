"""Find the rmrkd commands of a shell text, and parse them with the real command line, without running them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from tests.helpers.cli import COMMAND

_SEPARATORS = {"&&", "||", ";", "|", "{", "}"}
# Options that do their work while the command line is parsed.
ALONE = (["--help"], ["--version"], ["--install-completion"], ["--show-completion"])
_STARTERS = (["python3", "-m", "uv", "run"], ["uv", "run"], ["srun"])


def rmrkd_commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments after `rmrkd` of each command in a shell text."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=";|&")
        words.whitespace_split = True
        words.commenters = "#"
        for command in _split([part for word in words for part in expand_braces(word)]):
            for starter in _STARTERS:
                if command[: len(starter)] == starter:
                    command = command[len(starter) :]
            if command[:1] == ["torchrun"]:
                command = ["rmrkd", *command[command.index("rmrkd_cli") + 1 :]]
            if command[:1] == ["rmrkd"]:
                yield command[1:]


def _split(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word in _SEPARATORS:
            if command:
                yield command
            command = []
        else:
            command.append(word)


def expand_braces(word: str) -> list[str]:
    """Return what bash makes of `a{b,c}`."""
    found = re.search(r"\{([^{}]*,[^{}]*)\}", word)
    if found is None:
        return [word]
    return [
        expanded
        for choice in found[1].split(",")
        for expanded in expand_braces(word[: found.start()] + choice + word[found.end() :])
    ]


def parse(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command's name and its values by parameter name.

    Raises:
        UsageError: Of Typer, for a command, an option or a value that does not exist.
        RmrkdError: Of a callback that checks a value.
    """
    command: Any = COMMAND
    name = "rmrkd"
    rest = list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"no command `{name} {rest[0]}`"
        name, command = f"{name} {rest[0]}", command.commands[rest[0]]
        rest = rest[1:]
    if rest in ALONE or (not rest and hasattr(command, "commands")):
        return name, {}
    return name, command.make_context(name, rest).params


def options(command: Any = COMMAND) -> set[str]:
    """Return every option of every command."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for inner in getattr(command, "commands", {}).values():
        own |= options(inner)
    return {name for name in own if name.startswith("-")} | {"--help"}
