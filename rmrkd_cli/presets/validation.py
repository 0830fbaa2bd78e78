"""Mappings read from YAML against their schema: every problem told together, each with its dotted path."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.presets.loss_schema import CODE
from rmrkd_cli.presets.safe_yaml import read_yaml
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.terminal.text import shorten

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 30  # problems
_SHORT = 80  # characters of a value


def read_mapping(path: Path) -> dict[str, Any]:
    """A preset's or a recipe's contents, not checked further."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise RmrkdError(
            f"preset `{path}` must be a mapping of names, as `rmrkd presets demo` prints one, got {shown(raw)}"
        )
    return raw


def validate(model: type[Model], raw: dict[str, Any], path: Path, problems: Sequence[RmrkdError] = ()) -> Model:
    """The model made of `raw`.

    Args:
        problems: Found before, to be told together with what is found here.

    Raises:
        RmrkdError: With every problem.
    """
    lines = [error.message for error in problems]
    try:
        made = model.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)
        lines += [_describe(model, problem) for problem in found[:_SHOWN]] + [""] * (len(found) - _SHOWN)
    else:
        if len(problems) == 1:
            raise problems[0]
        if not lines:
            return made
    shown = [f"  {escape_control(line)}" for line in lines[:_SHOWN]]
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    raise RmrkdError(
        f"{len(lines)} problem(s) in preset `{escape_control(path)}`:\n" + "\n".join(shown + more),
        next((error.hint for error in problems if error.hint), "") or "rmrkd presets NAME shows one with every key",
    )


def _describe(model: type[BaseModel], problem: Any) -> str:
    location = [shorten(str(part), _SHORT) for part in problem["loc"]]
    if len(location) > 2 and location[0] == "losses":
        del location[2]  # pydantic names the chosen kind of loss between the loss and its key
    dotted = ".".join(location) or "preset"
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        return f"{dotted}: unknown key, {did_you_mean(location[-1], _siblings(model, problem['loc']))}"
    if kind == "missing":
        return f"{dotted}: required, not given"
    if kind in ("literal_error", "union_tag_invalid"):
        expected = problem["ctx"].get("expected") or problem["ctx"].get("expected_tags")
        allowed = re.findall(r"'([^']+)'", expected)
        got = value.get("type") if kind == "union_tag_invalid" and isinstance(value, dict) else value
        got = shorten(str(got), _SHORT)
        return f"{dotted}: `{got}` is not allowed, {did_you_mean(got, allowed)} (allowed: {', '.join(allowed)})"
    if kind == "union_tag_not_found":
        return f"{dotted}: {_untyped(value)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = re.sub(r"\b10{12,}\b", lambda found: f"{float(found[0]):g}", message.replace("Input should", "must"))
    message = f"{dotted}: {message[0].lower()}{message[1:]}"
    if kind == "related":  # it names the values it is about
        return message
    quote = " (put it in quotes where it is meant as text)" if kind == "string_type" and _is_scalar(value) else ""
    return f"{message}, got {shown(value)}{quote}"


def _untyped(loss: object) -> str:
    if not isinstance(loss, dict):
        return f"must be a mapping with a `type`, got {shown(loss)}"
    return (
        f"its `type` must be a name, got {shown(loss['type'])}" if "type" in loss else "`type` is required, not given"
    )


def _is_scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def shown(value: object) -> str:
    """A value for a message, of whatever size it is."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}" if len(value) > 4 else shorten(repr(value), _SHORT)
    return shorten(repr(value), _SHORT)


def _siblings(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys that exist where an unknown one was met."""
    dist_ctx: Any = model
    for part in location[:-1]:
        dist_ctx = _step(dist_ctx, part)
    fields = getattr(dist_ctx, "model_fields", None)
    return list(fields) if fields else []


def _step(annotation: Any, part: Any) -> Any:
    fields = getattr(annotation, "model_fields", None)
    if fields is not None:
        return _unwrap(fields[part].annotation) if part in fields else None
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return args[1]
    for choice in _members(annotation):
        tag = getattr(choice, "model_fields", {}).get("type")
        if tag is not None and part in (typing.get_args(tag.annotation) or (CODE,)):
            return choice
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _unwrap(annotation: Any) -> Any:
    members = [member for member in _members(annotation) if member is not type(None)]
    return members[0] if len(members) == 1 else annotation
