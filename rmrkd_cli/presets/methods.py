"""Methods: the loss recipes of `presets/methods`, and where their weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.presets.fields import AUTO
from rmrkd_cli.presets.loss_schema import is_code
from rmrkd_cli.presets.schema import DATASET_ALIASES, OWN_METHOD, MethodRecipe, Preset
from rmrkd_cli.presets.validation import read_mapping, validate

ALIASES = {"dkd": "dkd-region"}  # the name before the method zoo; DKD means another method to the field


def preset_dir() -> Path:
    """The folder of the presets that ship with rmrkd, in a wheel or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "_presets"
    return packed if packed.is_dir() else package.parent / "presets"


def method_names() -> list[str]:
    """Names that `--method` takes; `rmrkd` stands for the losses of the preset itself."""
    return sorted({OWN_METHOD, *(path.stem for path in (preset_dir() / "methods").glob("*.yaml"))})


def load_method(name: str) -> MethodRecipe:
    """Reads a loss recipe of `presets/methods`."""
    name = ALIASES.get(name, name)
    path = preset_dir() / "methods" / f"{name}.yaml"
    if name not in method_names():
        raise RmrkdError(f"unknown method `{name}`, {did_you_mean(name, method_names())}", "rmrkd methods")
    return validate(MethodRecipe, read_mapping(path), path)


def choose_method(raw: dict[str, Any], method: str | None, path: Path) -> None:
    """Puts a recipe's losses in place of a preset's own, each with its weight for the preset's data set.

    Args:
        raw: The preset as read; changed in place.
        method: A recipe's name, or a class of one's own as `path/to/file.py:Class`; none keeps the preset's losses.
        path: Of the preset, for messages.
    """
    method = ALIASES.get(method, method) if method is not None else None
    held = raw.get("method", OWN_METHOD)
    if method is None or method == held:
        return
    if is_code(method):
        name = method.rpartition(":")[2]
        raw["method"], raw["losses"] = name, {name: {"type": method}}
        return
    if method == OWN_METHOD:
        raise RmrkdError(
            f"preset `{path}` holds the losses of `{held}`, not its own `{OWN_METHOD}` ones",
            "name the preset it was made from",
        )
    raw["method"], raw["losses"] = method, _losses(load_method(method), raw)


def _losses(recipe: MethodRecipe, raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe's losses for a preset.

    A part of the preset's own method stays as it is in the preset, for a data set whose weights are published.
    """
    own = raw.get("losses")
    made: dict[str, Any] = recipe.model_dump(exclude_unset=True)["losses"]
    for name, loss in made.items():
        before = own.get(name) if isinstance(own, dict) else None
        known = _source_weight(recipe, name, raw.get("dataset"))
        if known is not None and isinstance(before, dict) and before.get("type") == loss["type"]:
            made[name] = dict(before)
        elif "weight" not in loss:
            loss["weight"] = AUTO if known is None else known
    return made


def _source_weight(recipe: MethodRecipe, name: str, dataset: object) -> float | None:
    """What the source multiplies a loss with on a data set, where it says so."""
    known = recipe.weights.get(name)
    dataset = DATASET_ALIASES.get(dataset, dataset) if isinstance(dataset, str) else dataset
    return known.values.get(dataset) if known is not None else None  # type: ignore[call-overload]


def is_fixed(recipe: MethodRecipe, name: str) -> bool:
    """Whether a recipe gives a loss one weight for all data sets."""
    loss = recipe.losses[name]
    return "weight" in loss.model_fields_set and loss.weight != AUTO


def weight_origin(preset: Preset, name: str) -> str:
    """Where the weight of one of a preset's losses comes from, in words."""
    weight = preset.losses[name].weight
    if weight == AUTO:
        return "by the rule of equal gradients"
    if preset.method in method_names() and preset.method != OWN_METHOD:
        recipe = load_method(preset.method)
        if name in recipe.losses and is_fixed(recipe, name) and recipe.losses[name].weight == weight:
            return "the recipe's on every data set"
        if name in recipe.weights and _source_weight(recipe, name, preset.dataset) == weight:
            return f"its source's for {preset.dataset}: {recipe.weights[name].source}"
    return "as the preset says"
