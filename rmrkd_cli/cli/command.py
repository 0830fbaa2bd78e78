"""Typer commands whose help ends with examples, and options that are declared as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup


def option(name: str, group: str, help: str, *, default: str = "", **settings: Any) -> Any:
    """Return the declaration of an option.

    Args:
        name: `--name`, or `--name/--no-name`.
        group: The heading in the help.
        help: A sentence that begins with a verb.
        default: What happens without the option, if its Python default does not say it.
        settings: As for `typer.Option`, such as min, max and metavar; the metavar of numbers is N.
    """
    if "min" in settings:
        settings.setdefault("metavar", "N")
    return typer.Option(name, help=help, rich_help_panel=group, show_default=default or True, **settings)


class _HelpWithExamples:
    """Print the section `Examples:` of the docstring below the options."""

    help: str | None

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        text, _, examples = (self.help or "").partition("\n\nExamples:\n")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
        self.examples = [line.strip() for line in examples.splitlines() if line.strip()]

    def get_params(self, context: Any) -> list[Any]:
        """Return the parameters. Flags and arguments show no type, and `--help` is listed in the last group."""
        params: list[Any] = super().get_params(context)  # type: ignore[misc]
        for param in params:
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: ""  # it would be a Python type, such as list[Path]
            elif param.is_flag:
                param.metavar = ""
        if len(params) > 1 and params[-1].name == "help":
            params[-1].rich_help_panel = getattr(params[-2], "rich_help_panel", None)
        return params

    def get_help(self, context: Any) -> str:
        """Return the help with examples; what rich formats is printed at once, and only the examples are returned."""
        text = super().get_help(context)  # type: ignore[misc]
        return "\n".join([text, " Examples:", *(f"   {line}" for line in self.examples)])


class Command(_HelpWithExamples, TyperCommand):
    """A command whose docstring ends with examples."""


class CommandGroup(_HelpWithExamples, TyperGroup):
    """A group of commands whose help text ends with examples."""


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `options` of a command by the fields of the dataclass that annotates it.

    Typer reads options from a function's signature. This lets several commands share the options of one dataclass.
    """
    hints = get_type_hints(command, include_extras=True)
    options_class = hints["options"]
    hints |= get_type_hints(options_class, include_extras=True)
    fields = inspect.signature(options_class).parameters

    def params() -> Iterator[inspect.Parameter]:
        for param in inspect.signature(command).parameters.values():
            for one in fields.values() if param.name == "options" else [param]:
                yield one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)

    @wraps(command)
    def expanded(**values: Any) -> None:
        options = options_class(**{name: values.pop(name) for name in fields})
        command(options=options, **values)

    signature = inspect.Signature([*params()], return_annotation=None)
    expanded.__signature__ = signature  # type: ignore[attr-defined]
    expanded.__annotations__ = {name: param.annotation for name, param in signature.parameters.items()}
    return expanded
