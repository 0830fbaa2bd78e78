"""Checks of YAML contents against their schema: all problems in one message, each with its dotted path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.presets.key_names import explain_unknown_key
from rmrkd_cli.presets.safe_yaml import read_yaml
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.terminal.text import shorten

Model = TypeVar("Model", bound=BaseModel)
_MAX_SHOWN = 30  # problems
_MAX_LENGTH = 80  # characters of a value
_COMPLETE = "complete_message"  # type of an error whose text needs no value after it
_WORDS = {
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list, such as [1, 2]"),
    "dict_type": "must be a mapping, such as {KEY: VALUE}",
    "string_type": "must be text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
}


class StrictModel(BaseModel):
    """A part of a preset: unknown keys, infinity and NaN are errors, and all problems are raised together."""

    example: ClassVar[str] = ""  # how it is written, for the message about a value that is no mapping

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=False, defer_build=True)

    @classmethod
    def cross_field_problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong between several keys; `raw` is not validated, so values may have any type."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _collect_problems(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        problems: list[InitErrorDetails] = []
        if not isinstance(value, (Mapping, cls)):
            keys = ", ".join(f"`{key}`" for key in list(cls.model_fields)[:3])
            raise complete_error(
                f"must be {cls.example or f'a mapping with keys such as {keys}'}, got {format_value(value)}"
            )
        if isinstance(value, Mapping):
            problems = [_problem(text) for text in cls.cross_field_problems(value)]
            unknown = [key for key in value if key not in cls.model_fields]
            for number, key in enumerate(unknown):
                near = f", {explain_unknown_key(str(key), cls)}" if number < _MAX_SHOWN else ""
                problems.append(_problem(f"unknown key{near}", key))
        try:
            model = handler(value)
        except ValidationError as error:
            found = error.errors(include_url=False)
            problems += [_raisable(problem) for problem in found if problem["type"] != "extra_forbidden"]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return model


def complete_error(text: str) -> PydanticCustomError:
    """Return an error for a validator to raise, whose text is shown as it is."""
    return PydanticCustomError(cast(Any, _COMPLETE), cast(Any, text))


def _problem(text: str, *loc: str) -> InitErrorDetails:
    return InitErrorDetails(type=complete_error(text), loc=loc, input=None)


def _raisable(problem: Any) -> InitErrorDetails:
    """Return a caught problem in the form in which pydantic lets it be raised again."""
    custom = problem["type"] in ("value_error", _COMPLETE)
    kind = PydanticCustomError(problem["type"], problem["msg"]) if custom else problem["type"]
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"], ctx=problem.get("ctx", {}))


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the contents of a preset or recipe, not validated yet."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise RmrkdError(f"preset `{path}` must be a mapping, got {format_value(raw)}", "rmrkd presets demo")
    return raw


def validate(model: type[Model], raw: dict[str, Any], path: Path, earlier: Sequence[RmrkdError] = ()) -> Model:
    """Return the model of `raw`.

    Args:
        path: File that `raw` was read from.
        earlier: Problems found before, reported together with those found here.

    Raises:
        RmrkdError: With every problem.
    """
    lines = [error.message for error in earlier]
    try:
        result = model.model_validate(raw)
        if not earlier:
            return result
        if len(earlier) == 1:
            raise earlier[0]
    except ValidationError as error:
        found = error.errors(include_url=False)
        lines += [_describe(problem) for problem in found[:_MAX_SHOWN]] + [""] * (len(found) - _MAX_SHOWN)
    shown = [f"  {escape_control(line)}" for line in lines[:_MAX_SHOWN]]
    more = [f"  and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
    raise RmrkdError(
        f"{len(lines)} problem(s) in preset `{escape_control(path)}`:\n" + "\n".join(shown + more),
        next((error.hint for error in earlier if error.hint), "rmrkd presets NAME prints every key of a preset"),
    )


def _describe(problem: Any) -> str:
    """Return one line for a problem: dotted path, what is wrong, the value."""
    dotted = ".".join(shorten(str(part), _MAX_LENGTH) for part in problem["loc"]) or "preset"
    kind, value = problem["type"], problem.get("input")
    if kind == _COMPLETE:
        return f"{dotted}: {problem['msg']}"
    if kind == "missing":
        is_item = isinstance(problem["loc"][-1], int)
        return f"{dotted}: " + (
            f"value {problem['loc'][-1] + 1} of the list is missing" if is_item else "required, but missing"
        )
    if kind == "literal_error":
        allowed = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        return f"{dotted}: {not_allowed(value, allowed)}"
    message = _plain_words(problem)
    is_scalar = isinstance(value, (bool, int, float))
    hint = " (put it in quotes if it is text)" if kind == "string_type" and is_scalar else ""
    return f"{dotted}: {message[0].lower()}{message[1:]}, got {format_value(value)}{hint}"


def _plain_words(problem: Any) -> str:
    """Return pydantic's message in the words of YAML: list, mapping, text, whole number."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _WORDS:
        return _WORDS[kind]
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        count = context["min_length" if least else "max_length"]
        return f"must have at {'least' if least else 'most'} {count} {'item' if count == 1 else 'items'}"
    if kind in ("string_too_short", "string_too_long"):
        return (
            "must not be empty"
            if kind == "string_too_short"
            else f"must have at most {context['max_length']} characters"
        )
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return re.sub(r"\b10{12,}\b", lambda digits: f"{float(digits[0]):g}", message)


def not_allowed(value: object, allowed: Sequence[str]) -> str:
    """Return the message for a value that is not one of the allowed words."""
    got = shorten(str(value), _MAX_LENGTH)
    near = did_you_mean(got, allowed)
    near = f", {near} (" if near.startswith("did you mean") else " ("
    return f"`{got}` is not allowed{near}allowed: {', '.join(allowed)})"


def format_value(value: object) -> str:
    """Return a value of any size as short text for a message."""
    if isinstance(value, (list, dict)) and len(value) > 4:
        return f"a {type(value).__name__} of {len(value)}"
    return shorten(repr(value), _MAX_LENGTH)
