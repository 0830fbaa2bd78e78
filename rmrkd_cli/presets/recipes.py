"""Read the recipes of `presets/recipes`: parts of a preset that `--recipe` lays over another one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, JsonValue

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.presets.fields import Text
from rmrkd_cli.presets.names import preset_dir, recipe_names
from rmrkd_cli.presets.safe_yaml import PlainDumper
from rmrkd_cli.presets.validation import StrictModel, read_mapping, validate

_SUFFIXES = (".yaml", ".yml")
_WHOLE = "losses"  # replaced as a whole: the losses of a recipe are not mixed with those of the preset


class RecipeAbout(StrictModel):
    """Where a recipe comes from, and what was measured of it."""

    source: Text  # paper, and what of it was read
    published: Text = ""  # figures that the source reports
    measured: Text = ""  # figures measured with rmrkd, or that there are none
    stated: Annotated[list[Text], Field(max_length=20)] = []  # what the source says
    not_stated: Annotated[list[Text], Field(max_length=20)] = []  # what it leaves open: the preset's values are kept


class Recipe(StrictModel):
    """A part of a preset, with its source."""

    title: Text = ""  # one line for `rmrkd recipes`
    about: RecipeAbout | None = None
    preset: dict[str, JsonValue]  # keys of a preset; a mapping changes the keys that it names, `losses` is replaced


def load_recipe(name: str) -> Recipe:
    """Return a recipe that comes with rmrkd, or that of a YAML file.

    Raises:
        RmrkdError: There is no such recipe, or it is invalid.
    """
    is_path = "/" in name or name.endswith(_SUFFIXES)
    if not is_path and name not in recipe_names():
        hint = f"--recipe {name}.yaml" if os.path.isfile(f"{name}.yaml") else "rmrkd recipes"
        raise RmrkdError(f"unknown recipe `{name}`, {did_you_mean(name, recipe_names())}", hint)
    path = Path(name) if is_path else preset_dir() / "recipes" / f"{name}.yaml"
    return validate(Recipe, read_mapping(path), path)


def flow_yaml(value: JsonValue) -> str:
    """Return a value as YAML on one line."""
    text = yaml.dump(value, Dumper=PlainDumper, default_flow_style=True, width=10_000, sort_keys=False)
    return str(text).removesuffix("\n").removesuffix("\n...")


def apply_recipe(raw: dict[str, Any], name: str) -> None:
    """Lay a recipe over a preset as read; the result is validated as a preset.

    Args:
        raw: Changed in place.
    """
    _merge(raw, load_recipe(name).preset)


def _merge(raw: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(raw.get(key), dict) and key != _WHOLE:
            _merge(raw[key], value)
        else:
            raw[key] = value
