"""Read the loss recipes of `presets/methods`, put one into a preset, and say where its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.presets.fields import AUTO
from rmrkd_cli.presets.loss_schema import is_custom_loss
from rmrkd_cli.presets.schema import DATASET_ALIASES, OWN_METHOD, MethodRecipe, Preset
from rmrkd_cli.presets.validation import read_mapping, validate

ALIASES = {"dkd": "dkd-region"}  # its former name; elsewhere DKD is another method


def preset_dir() -> Path:
    """Return the folder of the presets that come with rmrkd, in a wheel or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "_presets"
    return packed if packed.is_dir() else package.parent / "presets"


def method_names() -> list[str]:
    """Return the names that `--method` accepts; `rmrkd` selects the preset's losses."""
    return sorted({OWN_METHOD, *(path.stem for path in (preset_dir() / "methods").glob("*.yaml"))})


def load_method(name: str) -> MethodRecipe:
    """Return a loss recipe of `presets/methods`."""
    name = ALIASES.get(name, name)
    path = preset_dir() / "methods" / f"{name}.yaml"
    if name not in method_names():
        raise RmrkdError(f"unknown method `{name}`, {did_you_mean(name, method_names())}", "rmrkd methods")
    return validate(MethodRecipe, read_mapping(path), path)


def apply_method(raw: dict[str, Any], method: str | None, path: Path) -> None:
    """Replace a preset's losses by a recipe's, each with its weight for the preset's data set.

    Args:
        raw: The preset as read; changed in place.
        method: A recipe's name, or a custom class as `path/to/file.py:Class`; None keeps the preset's losses.
        path: File of the preset, for messages.
    """
    method = ALIASES.get(method, method) if method is not None else None
    current = raw.get("method", OWN_METHOD)
    if method is None or method == current:
        return
    if is_custom_loss(method):
        name = method.rpartition(":")[2]
        raw["method"], raw["losses"] = name, {name: {"type": method}}
        return
    if method == OWN_METHOD:
        raise RmrkdError(
            f"preset `{path}` has the losses of `{current}`; its original ones (`{OWN_METHOD}`) are not in the file",
            "give the preset it was made from",
        )
    raw["method"], raw["losses"] = method, _recipe_losses(load_method(method), raw)


def _recipe_losses(recipe: MethodRecipe, raw: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's losses for a preset.

    A loss that the preset also has keeps the preset's keys, on a data set for which its source gives a weight.
    """
    preset_losses = raw.get("losses")
    losses: dict[str, Any] = recipe.model_dump(exclude_unset=True)["losses"]
    for name, loss in losses.items():
        own = preset_losses.get(name) if isinstance(preset_losses, dict) else None
        source_weight = _source_weight(recipe, name, raw.get("dataset"))
        if source_weight is not None and isinstance(own, dict) and own.get("type") == loss["type"]:
            losses[name] = dict(own)
        elif "weight" not in loss:
            loss["weight"] = AUTO if source_weight is None else source_weight
    return losses


def _source_weight(recipe: MethodRecipe, name: str, dataset: object) -> float | None:
    """Return the factor that the source gives a loss on a data set, or None."""
    known = recipe.weights.get(name)
    dataset = DATASET_ALIASES.get(dataset, dataset) if isinstance(dataset, str) else dataset
    return known.values.get(dataset) if known is not None else None  # type: ignore[call-overload]


def is_fixed(recipe: MethodRecipe, name: str) -> bool:
    """Return whether a recipe gives a loss one weight for all data sets."""
    loss = recipe.losses[name]
    return "weight" in loss.model_fields_set and loss.weight != AUTO


def weight_origin(preset: Preset, name: str) -> str:
    """Return in words where the weight of a preset's loss comes from."""
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
