"""Presets: finding, reading, overriding and checking them."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.schema import CUSTOM_ONLY, OWN_METHOD, MethodRecipe, Preset
from rmrkd_cli.visible import HIDDEN, visible
from rmrkd_cli.yaml_text import parse_yaml, read_yaml

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 30  # problems


def preset_dir() -> Path:
    """The folder of the presets that ship with rmrkd, in a wheel or in a checkout."""
    here = Path(__file__).resolve().parent
    packed = here / "_presets"
    return packed if packed.is_dir() else here.parent / "presets"


def preset_names() -> list[str]:
    """Names of all shipped presets."""
    return sorted(path.stem for path in preset_dir().glob("*.yaml"))


def method_names() -> list[str]:
    """Names that `--method` takes; `rmrkd` stands for the losses of the preset itself."""
    return sorted({OWN_METHOD, *(path.stem for path in (preset_dir() / "methods").glob("*.yaml"))})


def load_preset(name: str, *, method: str | None = None, overrides: Iterable[str] = ()) -> Preset:
    """Reads, overrides and checks a preset.

    Args:
        name: A shipped preset's name, or a YAML file (anything with a path separator or a YAML suffix).
        method: A recipe whose losses replace the preset's own; none or `rmrkd` keeps them.
        overrides: `key.path=value` texts, applied last; a value is read as YAML, and `null` removes a loss.

    Raises:
        RmrkdError: With every problem found, each with its dotted path.
    """
    path = _find(name)
    raw = _read(path)
    raw.setdefault("name", re.sub(r"[^\w.+-]+", "-", path.stem).lstrip(".+-") or "preset")  # it names a folder
    problems: list[RmrkdError] = []
    with _noted(problems):
        _choose_method(raw, method, path)
    for text in overrides:
        with _noted(problems):
            _override(raw, text)
    if isinstance(raw.get("losses"), dict):
        raw["losses"] = {key: value for key, value in raw["losses"].items() if value is not None}
    return _validate(Preset, raw, path, problems)


@contextmanager
def _noted(problems: list[RmrkdError]) -> Iterator[None]:
    """A problem met here is told together with those still to be found."""
    try:
        yield
    except RmrkdError as error:
        problems.append(error)


def _choose_method(raw: dict[str, Any], method: str | None, path: Path) -> None:
    """Puts the recipe's losses in place of the preset's own."""
    held = raw.get("method", OWN_METHOD)
    if method is None or method == held:
        return
    if method == OWN_METHOD:
        raise RmrkdError(
            f"preset `{path}` holds the losses of `{held}`, not its own `{OWN_METHOD}` ones",
            "name the preset it was made from",
        )
    losses = load_method(method).model_dump(exclude_unset=True)["losses"]
    raw["method"], raw["losses"] = method, losses


def load_method(name: str) -> MethodRecipe:
    """Reads a loss recipe of `presets/methods`."""
    path = preset_dir() / "methods" / f"{name}.yaml"
    if name not in method_names():
        raise RmrkdError(f"unknown method `{name}`, {did_you_mean(name, method_names())}", "rmrkd presets")
    return _validate(MethodRecipe, _read(path), path)


def to_yaml(preset: Preset, first_line: str = "") -> str:
    """The resolved preset as YAML that `--preset FILE` reads back."""
    contents = preset.model_dump(mode="json", exclude_none=True)
    if preset.dataset != "custom":
        contents["data"] = {key: value for key, value in contents["data"].items() if key not in CUSTOM_ONLY}
    text = yaml.safe_dump(contents, sort_keys=False, allow_unicode=True)
    if HIDDEN.search(text.replace("\n", "")):
        text = yaml.safe_dump(contents, sort_keys=False)  # with everything beyond ASCII as its escape
    return (f"# {visible(first_line)}\n" if first_line else "") + text


def _find(name: str) -> Path:
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    if name not in preset_names():
        raise RmrkdError(f"unknown preset `{name}`, {did_you_mean(name, preset_names())}", "rmrkd presets")
    return preset_dir() / f"{name}.yaml"


def _read(path: Path) -> dict[str, Any]:
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise RmrkdError(
            f"preset `{path}` must be a mapping of names, as `rmrkd presets demo` prints one, got {_shown(raw)}"
        )
    return raw


def _override(raw: dict[str, Any], text: str) -> None:
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise RmrkdError(f"`--set {_cut(text)}` must have the form key.path=value", "--set schedule.lr=0.02")
    if keys[:2] in (["teacher", "overrides"], ["student", "overrides"]) and len(keys) > 3:
        keys = [*keys[:2], ".".join(keys[2:])]  # keys of `overrides` are dotted themselves
    parsed = parse_yaml(value, f"`--set {_cut(text)}`: the value")
    node = raw
    for depth, key in enumerate(keys[:-1], 1):
        if node.get(key) is None:
            node[key] = {}
        if not isinstance(node[key], dict):
            raise RmrkdError(f"`--set {_cut(text)}`: `{'.'.join(keys[:depth])}` holds a value, not a group of keys")
        node = node[key]
    node[keys[-1]] = parsed


def _validate(model: type[Model], raw: dict[str, Any], path: Path, problems: Sequence[RmrkdError] = ()) -> Model:
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
    shown = [f"  {visible(line)}" for line in lines[:_SHOWN]]
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    raise RmrkdError(
        f"{len(lines)} problem(s) in preset `{visible(path)}`:\n" + "\n".join(shown + more),
        next((error.hint for error in problems if error.hint), "") or "rmrkd presets NAME shows one with every key",
    )


def _describe(model: type[BaseModel], problem: Any) -> str:
    location = [_cut(str(part)) for part in problem["loc"]]
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
        got = _cut(str(got))
        return f"{dotted}: `{got}` is not allowed, {did_you_mean(got, allowed)} (allowed: {', '.join(allowed)})"
    message = problem["msg"].removeprefix("Value error, ")
    message = re.sub(r"\b10{12,}\b", lambda found: f"{float(found[0]):g}", message.replace("Input should", "must"))
    message = f"{dotted}: {message[0].lower()}{message[1:]}"
    if kind == "related":  # it names the values it is about
        return message
    quote = " (put it in quotes where it is meant as text)" if kind == "string_type" and _is_scalar(value) else ""
    return f"{message}, got {_shown(value)}{quote}"


def _is_scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def _shown(value: object) -> str:
    """A value for a message, of whatever size it is."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}" if len(value) > 4 else _cut(repr(value))
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"


def _siblings(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys that exist where an unknown one was met."""
    here: Any = model
    for part in location[:-1]:
        here = _step(here, part)
    fields = getattr(here, "model_fields", None)
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
        if tag is not None and part in typing.get_args(tag.annotation):
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
