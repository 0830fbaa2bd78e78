"""Read the loss recipes of `presets/methods`, put one into a preset, and say where its weights come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.presets.fields import AUTO
from rmrkd_cli.presets.loss_schema import LossSpec, is_custom_loss, needs_labels
from rmrkd_cli.presets.names import method_names as method_names
from rmrkd_cli.presets.names import preset_dir as preset_dir
from rmrkd_cli.presets.schema import DATASET_ALIASES, OWN_METHOD, MethodRecipe, Preset
from rmrkd_cli.presets.validation import read_mapping, validate

ALIASES = {"dkd": "dkd-region"}  # its former name; elsewhere DKD is another method


def load_method(name: str) -> MethodRecipe:
    """Return a loss recipe of `presets/methods`."""
    name = ALIASES.get(name, name)
    path = preset_dir() / "methods" / f"{name}.yaml"
    if name not in method_names():
        raise RmrkdError(f"unknown method `{name}`, {did_you_mean(name, method_names())}", "rmrkd methods")
    return validate(MethodRecipe, read_mapping(path), path)


def methods_without_labels(*, on_logits: bool) -> list[str]:
    """Return the methods of `presets/methods` whose losses read no labels.

    Args:
        on_logits: Only those of which a loss acts on the logits, so that it trains all layers of the student.
    """
    recipes = {name: load_method(name).losses.values() for name in method_names()}
    return [
        name
        for name, losses in recipes.items()
        if losses
        and not any(needs_labels(loss.type) for loss in losses)
        and (not on_logits or any(acts_on_logits(loss) for loss in losses))
    ]


def methods_on_logits() -> list[str]:
    """Return the methods of `presets/methods` whose losses compare nothing but the logits of the decode head."""
    recipes = {name: load_method(name).losses.values() for name in method_names()}
    return [name for name, losses in recipes.items() if losses and all(loss.stage == "logits" for loss in losses)]


def methods_on_stages() -> list[str]:
    """Return the methods of `presets/methods` whose losses compare nothing but stages, and read no labels."""
    recipes = {name: load_method(name).losses.values() for name in method_names()}
    return [
        name
        for name, losses in recipes.items()
        if losses and all(isinstance(loss.stage, int) and not needs_labels(loss.type) for loss in losses)
    ]


def acts_on_logits(loss: LossSpec) -> bool:
    """Return whether a loss acts on the logits of the decode head, alone or among other maps."""
    return "logits" in (loss.stage if isinstance(loss.stage, list) else [loss.stage])


def apply_method(raw: dict[str, Any], method: str | None, path: Path) -> None:
    """Replace a preset's losses by a recipe's, each with its weight for the preset's data set.

    Args:
        raw: The preset as read; changed in place.
        method: A recipe's name, or a custom class as `path/to/file.py:Class`; None keeps the preset's losses. `rmrkd`
            keeps them too, unless the preset names no method and has none of RMRKD's losses.
        path: File of the preset, for messages.
    """
    method = ALIASES.get(method, method) if method is not None else None
    current = raw.get("method", OWN_METHOD)
    if method is None or (method == current and not _lists_other_losses(raw)):
        return
    if is_custom_loss(method):
        name = method.rpartition(":")[2]
        raw["method"], raw["losses"] = name, {name: {"type": method}}
        return
    if method == OWN_METHOD and "method" in raw:
        raise RmrkdError(
            f"preset `{path}` has the losses of `{current}`; its original ones (`{OWN_METHOD}`) are not in the file",
            "give the preset it was made from",
        )
    raw["method"], raw["losses"] = method, _recipe_losses(load_method(method), raw)


def _lists_other_losses(raw: dict[str, Any]) -> bool:
    """Return whether a preset names no method and lists losses, none of them RMRKD's."""
    losses = raw.get("losses")
    if "method" in raw or not isinstance(losses, dict):
        return False
    return all(not isinstance(loss, dict) or loss.get("type") != OWN_METHOD for loss in losses.values())


def _recipe_losses(recipe: MethodRecipe, raw: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's losses for a preset.

    A loss that the preset also has keeps the preset's keys, on a data set for which its source gives a weight.
    """
    preset_losses = raw.get("losses")
    losses: dict[str, Any] = recipe.model_dump(exclude_unset=True)["losses"]
    for name, loss in losses.items():
        own = preset_losses.get(name) if isinstance(preset_losses, dict) else None
        is_published = _published_for_dataset(recipe, name, raw.get("dataset")) is not None
        if is_published and isinstance(own, dict) and own.get("type") == loss["type"]:
            losses[name] = dict(own)
        elif is_fixed(recipe, name):
            del loss["weight"]  # `fill_weights` gives it
    return losses


def _published_for_dataset(recipe: MethodRecipe, name: str, dataset: object) -> float | None:
    """Return the factor that the source gives a loss on a data set, or None."""
    known = recipe.weights.get(name)
    dataset = DATASET_ALIASES.get(dataset, dataset) if isinstance(dataset, str) else dataset
    return known.values.get(dataset) if known is not None else None  # type: ignore[call-overload]


def is_fixed(recipe: MethodRecipe, name: str) -> bool:
    """Return whether a recipe gives a loss one weight for all data sets."""
    loss = recipe.losses[name]
    return "weight" in loss.model_fields_set and loss.weight != AUTO


def fill_weights(preset: Preset) -> None:
    """Give each loss without a weight the published one for the preset's data set and the loss's stage.

    Where there is none it stays `auto`. The weight is not marked as set, so `weight_origin` knows what the preset says.
    """
    load = cache(load_method)  # the losses of a preset are mostly of one recipe
    for name, spec in preset.losses.items():
        if "weight" not in spec.model_fields_set and (published := _published_weight(preset, name, load)):
            spec.weight = published[0]
            spec.model_fields_set.discard("weight")


def _published_weight(
    preset: Preset, name: str, load: Callable[[str], MethodRecipe] = load_method
) -> tuple[float, str] | None:
    """Return the published weight of a loss and where it comes from, or None."""
    spec = preset.losses[name]
    if is_custom_loss(spec.type):
        return None
    for recipe in map(load, _methods_with(preset.method, spec.type)):
        for key, loss in recipe.losses.items():
            known = recipe.weights.get(key)
            stages = known.stages if known is not None and known.stages is not None else [loss.stage]
            if loss.type != spec.type or spec.stage not in stages:
                continue
            if is_fixed(recipe, key):
                return float(loss.weight), "the recipe's on every data set"
            weight = _published_for_dataset(recipe, key, preset.dataset)
            if known is None or weight is None:
                return None  # not even if another method trains with the same loss there
            return weight, f"its source's for {preset.dataset}: {known.source}"
    return None


def _methods_with(method: str, loss_type: str) -> Iterator[str]:
    """Yield the methods with a loss of a type: the given one, the one named like the type, then the others."""
    names = method_names()
    first = [method, ALIASES.get(loss_type, loss_type.replace("_", "-"))]
    for name in dict.fromkeys([*(name for name in first if name in names), *names]):
        text = (preset_dir() / "methods" / f"{name}.yaml").read_text(encoding="utf-8")
        if f"type: {loss_type}" in text:  # reading all as YAML would take half a second
            yield name


def weight_origin(preset: Preset, name: str, settings: Iterable[str] = ()) -> str:
    """Return in words where the weight of a preset's loss comes from.

    Args:
        settings: The texts of `--set` that changed the preset.
    """
    spec = preset.losses[name]
    if spec.weight == AUTO:
        return "by the rule of equal gradients"
    if "weight" not in spec.model_fields_set:
        published = _published_weight(preset, name)
        return published[1] if published is not None else "the default"
    keys = {text.partition("=")[0].strip() for text in settings}
    return "as --set says" if keys & {"losses", f"losses.{name}", f"losses.{name}.weight"} else "as the preset says"
