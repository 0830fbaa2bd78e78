"""Every rmrkd command in README and docs is one that the command line accepts."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from rmrkd_cli.cli.usage_errors import is_usage_error
from rmrkd_cli.presets.loader import load_preset, preset_names
from rmrkd_cli.presets.methods import ALIASES, method_names
from rmrkd_cli.presets.schema import DATASET_ALIASES, DATASETS
from tests.docs.commands import ALONE, expand_braces, options, parse, rmrkd_commands
from tests.docs.pages import NOT_A_PRESET, PAGES, all_blocks, blocks, inline_code
from tests.helpers.cli import rmrkd

SHELL = ("", "bash", "console", "sh")
IN_BLOCKS = [
    (str(block), arguments) for block in all_blocks(*SHELL) for arguments in rmrkd_commands(block.text)
]  # fmt: skip
IN_COMMENTS = [
    (str(block), arguments)
    for block in all_blocks("yaml")
    if block.above != NOT_A_PRESET
    for arguments in rmrkd_commands(block.text.split("\n")[0].removeprefix("# "))
]
INLINE = [
    (page, code.removeprefix("uv run "))
    for page in PAGES
    for code in inline_code(page)
    if re.match(r"(uv run )?rmrkd( |$)", code)
]
# Words in capitals that stand for a value of the reader's, and the values that they are parsed as here.
PLACEHOLDERS = {"N": "2", "SHARE": "0.1", "PERCENT": "50", "ROLE": "all", "HXW": "64x64"}


def test_there_are_commands_to_check() -> None:
    assert len(IN_BLOCKS) > 30
    assert len(INLINE) > 30


@pytest.mark.parametrize(("where", "arguments"), [*IN_BLOCKS, *IN_COMMENTS])
def test_a_command_in_a_block_is_accepted(where: str, arguments: list[str]) -> None:
    name, values = parse(arguments)
    assert name != "rmrkd" or arguments in (["--help"], ["--version"])
    _check_names(name, values)


@pytest.mark.parametrize(("where", "code"), sorted(set(INLINE)))
def test_a_command_in_the_text_names_a_command_and_options_that_exist(where: str, code: str) -> None:
    words = [part for word in code.split()[1:] for part in expand_braces(word)]
    words = [PLACEHOLDERS.get(word, word) for word in words if word not in ("…", "...")]
    name, _ = parse([*words[: 2 if words[:1] == ["data"] else 1], "--help"] if words not in ALONE else words)
    assert name != "rmrkd" or words in ([], *ALONE)
    given = {word.split("=")[0] for word in words if word.startswith("-")}
    assert given <= options()
    _check_values(words)


@pytest.mark.parametrize("page", PAGES)
def test_an_option_in_the_text_exists(page: str) -> None:
    known = options() | OTHERS
    named = {code.split()[0].split("=")[0] for code in inline_code(page) if code.startswith("--")}
    assert named <= known


# Options of other programs: uv, pytest, `python -m benchmarks.methods`, `python -m tests.endurance`.
OTHERS = {"--quick", "--parallel", "--methods", "--jobs", "--shutdown-timeout", "--max_restarts"}


def _check_names(name: str, values: dict[str, object]) -> None:
    """Check the presets, methods and data sets that a command names, and its --set against the preset."""
    preset, method = values.get("preset"), values.get("method")
    if name == "rmrkd presets" and values.get("name"):
        preset = values["name"]
    if name == "rmrkd methods" and values.get("name"):
        method = values["name"]
    if isinstance(method, str) and ".py:" not in method:
        assert method in {*method_names(), *ALIASES}
    if values.get("dataset") is not None:
        assert values["dataset"] in {*DATASETS, *DATASET_ALIASES}
    if not isinstance(preset, str):
        return
    if preset.startswith("examples/"):
        load_preset(str(Path(__file__).parents[2] / preset))
        return
    if preset.endswith(".yaml"):
        assert preset in {block.title for page in PAGES for block in blocks(page)}, f"no page shows {preset}"
        return
    assert preset in preset_names()
    settings = values.get("settings")
    load_preset(preset, method=method, overrides=settings if isinstance(settings, list) else ())


def _check_values(words: list[str]) -> None:
    for option, value in pairwise(words):
        if option == "--preset" and value.isascii() and value.islower() and not value.endswith(".yaml"):
            assert value in preset_names()
        if option == "--method" and value.islower() and ".py:" not in value:
            assert value in method_names()
        if option == "--set" and "=" in value and "losses.Difference" not in value:
            _check_setting(value)


@pytest.mark.parametrize("page", PAGES)
def test_a_setting_in_the_text_is_accepted(page: str) -> None:
    for code in inline_code(page):
        if code.startswith("--set ") and "losses.Difference" not in code:
            _check_setting(code.removeprefix("--set ").strip("'\""))


def _check_setting(setting: str) -> None:
    key = setting.partition("=")[0].split(".")
    if setting in ("KEY=VALUE", "KEY.PATH=VALUE"):
        return
    methods = {"cirkd_memory": "cirkd-memory", "cwd": "cwd", "csd": "dsd", "gkd": "gkd"}
    method = methods.get(key[1]) if key[0] == "losses" else None
    load_preset("demo", method=method, overrides=[setting])


@pytest.mark.parametrize("arguments", [["--help"], ["presets"], ["presets", "demo"], ["methods"], ["methods", "cwd"]])
def test_a_command_that_needs_no_torch_runs(arguments: list[str]) -> None:
    outcome = rmrkd(*arguments)
    assert outcome.exit_code == 0
    assert len(outcome.stdout.splitlines()) > 10


@pytest.mark.parametrize("command", sorted({arguments[0] for _, arguments in IN_BLOCKS if arguments}))
def test_each_command_in_the_docs_prints_its_help(command: str) -> None:
    assert rmrkd(command, "--help").exit_code == 0


def test_the_overview_lists_every_command() -> None:
    from tests.helpers.cli import COMMAND

    listed = {code.split()[1] for code in inline_code("docs/index.md") if code.startswith("rmrkd ")}
    assert listed >= set(COMMAND.commands)


def test_the_parser_refuses_what_does_not_exist() -> None:
    for bad in (["train", "--preset", "demo", "--epochs", "3"], ["train", "--preset", "demo", "--gpus", "many"]):
        with pytest.raises(Exception) as raised:
            parse(bad)
        assert is_usage_error(raised.value)
    assert list(rmrkd_commands("a && uv run rmrkd x{1,2} # c\nsrun rmrkd y || { z; }")) == [["x1", "x2"], ["y"]]
