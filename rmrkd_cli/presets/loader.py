"""Find, read, override and validate presets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.presets.config_paths import resolve_config
from rmrkd_cli.presets.methods import apply_method, fill_weights
from rmrkd_cli.presets.names import preset_dir
from rmrkd_cli.presets.names import preset_names as preset_names
from rmrkd_cli.presets.recipes import apply_recipe
from rmrkd_cli.presets.safe_yaml import PlainDumper, parse_yaml
from rmrkd_cli.presets.schema import CUSTOM_ONLY, Preset
from rmrkd_cli.presets.validation import read_mapping, validate
from rmrkd_cli.terminal.messages import debug
from rmrkd_cli.terminal.sanitize import CONTROL, escape_control
from rmrkd_cli.terminal.text import shorten

_SUFFIXES = (".yaml", ".yml")
_MAX_FILES = 10  # in a message


def load_preset(
    name: str, *, method: str | None = None, recipe: str | None = None, overrides: Iterable[str] = ()
) -> Preset:
    """Return a preset: read from YAML, with another method's losses, with overrides, validated.

    Args:
        name: A preset that comes with rmrkd, or a YAML file (anything with a path separator or a YAML suffix).
        method: A recipe whose losses replace the preset's own; None or `rmrkd` keeps them.
        recipe: A recipe's name or YAML file, laid over the preset before the method and the overrides.
        overrides: `key.path=value` texts, applied last. A value is read as YAML, and `null` removes a loss.

    Raises:
        RmrkdError: With every problem, each with its dotted path.
    """
    path = _find(name)
    debug(f"preset: {path}")
    raw = read_mapping(path)
    raw.setdefault("name", re.sub(r"[^\w.+-]+", "-", path.stem).lstrip(".+-") or "preset")  # it names a folder
    problems: list[RmrkdError] = []
    if recipe is not None:
        apply_recipe(raw, recipe)
    with _collect(problems):
        apply_method(raw, method, path)
    for text in overrides:
        with _collect(problems):
            _override(raw, text)
    if isinstance(raw.get("losses"), dict):
        raw["losses"] = {key: value for key, value in raw["losses"].items() if value is not None}
    preset = _with_config_files(validate(Preset, raw, path, problems), path.parent)
    fill_weights(preset)
    return preset


def _with_config_files(preset: Preset, folder: Path) -> Preset:
    """Return a preset whose config files of the user have absolute paths, so that they are found from anywhere."""
    resolved = {}
    for what in ("teacher", "student"):
        network = getattr(preset, what)
        if network.config is not None:
            config = resolve_config(network.config, folder)
            resolved[what] = network.model_copy(update={"config": config})
    return preset.model_copy(update=resolved)


def dataset_preset(dataset: str) -> Preset:
    """Return a preset that describes only a built-in data set: its networks are placeholders."""
    placeholder = {"config": "none"}
    return Preset.model_validate({"dataset": dataset, "teacher": placeholder, "student": placeholder})


@contextmanager
def _collect(problems: list[RmrkdError]) -> Iterator[None]:
    """Catch an error, so that it is reported together with later ones."""
    try:
        yield
    except RmrkdError as error:
        problems.append(error)


def to_yaml(preset: Preset, first_line: str = "") -> str:
    """Return a preset with all its keys as YAML text that `--preset FILE` reads back."""
    contents = preset.model_dump(mode="json", exclude_none=True)
    if preset.dataset != "custom":
        contents["data"] = {key: value for key, value in contents["data"].items() if key not in CUSTOM_ONLY}
    for schedule in (contents["schedule"], contents["teacher"].get("schedule", {})):
        if schedule.get("optimizer", {}).get("type") == "SGD":
            del schedule["optimizer"]["betas"]
    text = yaml.dump(contents, Dumper=PlainDumper, sort_keys=False, allow_unicode=True)
    if CONTROL.search(text.replace("\n", "")):
        text = yaml.dump(contents, Dumper=PlainDumper, sort_keys=False)  # escapes everything beyond ASCII
    return (f"# {escape_control(first_line)}\n" if first_line else "") + text


def _find(name: str) -> Path:
    names = preset_names()
    if name in names:
        return preset_dir() / f"{name}.yaml"
    is_path = "/" in name or "\\" in name or name.endswith(_SUFFIXES)
    if is_path and os.path.lexists(name):
        return Path(name)
    bare = name.removesuffix(".yaml").removesuffix(".yml")
    beside = next((f"{bare}{suffix}" for suffix in _SUFFIXES if bare and _is_file(f"{bare}{suffix}")), "")
    if beside:
        problem = f"preset file `{name}` does not exist" if is_path else f"unknown preset `{name}`"
        raise RmrkdError(f"{problem}, but there is a file `{beside}`", f"name the file: {beside}")
    if bare in names:
        raise RmrkdError(
            f"preset file `{name}` does not exist, but rmrkd has a preset `{bare}`", f"leave the suffix out: {bare}"
        )
    if is_path:
        near = did_you_mean(Path(name).name, _preset_files(Path(name).parent))
        if near.startswith("did you mean"):
            raise RmrkdError(f"preset file `{name}` does not exist, {near}", "rmrkd presets lists those of rmrkd")
        return Path(name)  # reading it reports what is wrong
    near = did_you_mean(name, [*names, *_preset_files(Path())])
    if not near.startswith("did you mean"):
        near = did_you_mean(name, names)  # every YAML file here would say little
    raise RmrkdError(
        f"unknown preset `{name}`, {near}",
        "rmrkd presets; a file of your own: --preset mine.yaml",
    )


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def _preset_files(folder: Path) -> list[str]:
    """Return the names of some YAML files in a folder."""
    with suppress(OSError, ValueError):
        return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(_SUFFIXES))[:_MAX_FILES]
    return []


def _override(raw: dict[str, Any], text: str) -> None:
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise RmrkdError(f"`--set {shorten(text, 80)}` must have the form key.path=value", "--set schedule.lr=0.02")
    if keys[:2] in (["teacher", "overrides"], ["student", "overrides"]) and len(keys) > 3:
        keys = [*keys[:2], ".".join(keys[2:])]  # keys of `overrides` are dotted themselves
    parsed = parse_yaml(value, f"`--set {shorten(text, 80)}`: the value")
    node = raw
    for depth, key in enumerate(keys[:-1], 1):
        if node.get(key) is None:
            node[key] = {}
        if not isinstance(node[key], dict):
            raise RmrkdError(f"`--set {shorten(text, 80)}`: `{'.'.join(keys[:depth])}` holds a value, not keys")
        node = node[key]
    node[keys[-1]] = parsed
