"""Help texts: verbs, defaults, groups, and examples that the parser accepts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rmrkd_cli.cli.app import app
from tests.helpers.cli import run_main

ROOT = typer.main.get_command(app)
VERBS = """
    Accept Average Calibrate Change Check Compare Compute Continue Distil Draw Export Extract Fail Find Fit Install Keep
    Let List Load Look Make Measure Move Predict Prepare Print Read Record Replace Restart Resume Return Search Segment
    Set Show Skip Smooth Start Stop Store Take Train Tune Use Write
"""
# Without these options nothing is added, so there is no default to show.
NO_DEFAULT = """
    --calibration --code --config --download --from --json --log-file --option --preset --report --save-predictions
    --sbd --seeds --set
"""


def commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command and group with its words after `rmrkd`."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands())
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}


def get_params(path: tuple[str, ...]) -> list[Any]:
    """Return the parameters of a command, with `--help`."""
    command = COMMANDS[path]
    params: list[Any] = command.get_params(command.make_context("rmrkd", ["--version"], resilient_parsing=True))
    return params


def resolve(words: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the longest command that the words begin with, and the other words."""
    length = max(n for n in range(len(words) + 1) if tuple(words[:n]) in COMMANDS)
    return tuple(words[:length]), words[length:]


def option_names(path: tuple[str, ...]) -> set[str]:
    return {name for param in get_params(path) for name in (*param.opts, *param.secondary_opts)}


def show_help(path: tuple[str, ...]) -> str:
    code, out, err = run_main(*path, "--help")
    assert (code, err) == (0, "")
    return out


every_command = pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "rmrkd")


@every_command
def test_help_ends_with_examples_that_the_parser_accepts(path: tuple[str, ...]) -> None:
    lines = show_help(path).rstrip("\n").split("\n")
    start = lines.index(" Examples:")
    examples = [shlex.split(line) for line in lines[start + 1 :]]
    assert 1 <= len(examples) <= 2
    for program, *words in examples:
        named, arguments = resolve(words)
        assert (program, named[: len(path)]) == ("rmrkd", path)
        if "--help" not in arguments:
            COMMANDS[named].make_context("rmrkd", arguments)


@every_command
@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal_without_colours(
    path: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = show_help(path)
    assert "\x1b" not in text
    before_examples = text[: text.index(" Examples:")]
    assert max(map(len, before_examples.split("\n"))) <= width


@every_command
def test_flags_and_arguments_show_no_type(path: tuple[str, ...]) -> None:
    assert not re.search(r"<(bool|int|float|str|Path|path|list)\b", show_help(path))


@every_command
def test_every_help_line_begins_with_a_verb(path: tuple[str, ...]) -> None:
    texts = {"/".join(param.opts): param.help for param in get_params(path)} | {"command": COMMANDS[path].help}
    assert {name: text for name, text in texts.items() if text.split()[0] not in VERBS.split()} == {}
    assert {name: text for name, text in texts.items() if not text.rstrip().endswith(".") and name != "command"} == {}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_option_shows_its_default(path: tuple[str, ...]) -> None:
    silent = {
        max(param.opts, key=len)
        for param in get_params(path)
        if param.default is None and not (param.required or isinstance(param.show_default, str) or param.name == "help")
    }
    assert silent <= set(NO_DEFAULT.split())


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_options_are_grouped(path: tuple[str, ...]) -> None:
    options = [param for param in get_params(path) if param.param_type_name == "option" and param.name != "help"]
    groups = {param.rich_help_panel for param in options}
    assert None not in groups
    assert len(groups) > 1 or len(options) <= 5


@every_command
def test_commands_and_options_in_help_texts_exist(path: tuple[str, ...]) -> None:
    texts = [COMMANDS[path].help, *(f"{param.help} {param.show_default}" for param in get_params(path))]
    for text in texts:
        own = text
        for quoted in re.findall(r"rmrkd( [a-z][\w-]*)((?: -[\w-]+)*)", text):
            named, rest = resolve("".join(quoted).split())
            assert named, text
            assert {word for word in rest if word.startswith("-")} <= option_names(named)
            own = own.replace("rmrkd" + "".join(quoted), "")
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", own)) <= option_names(path), text


def test_train_has_the_groups_of_its_job() -> None:
    panels = dict.fromkeys(param.rich_help_panel for param in get_params(("train",)))
    assert list(panels) == [
        "What to train",
        "Data",
        "Networks",
        "Schedule",
        "Devices",
        "Run directory",
        "Output",
        "Messages",
    ]


def test_the_first_help_says_where_to_start() -> None:
    text = show_help(())
    assert "Start with: rmrkd train --preset demo" in text
    assert [name for name in ROOT.commands if f"│ {name} " not in text] == []  # type: ignore[attr-defined]
