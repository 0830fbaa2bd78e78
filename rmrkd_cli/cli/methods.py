"""`rmrkd methods`"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rmrkd_cli.presets.loss_schema import LossSpec
    from rmrkd_cli.presets.schema import MethodRecipe

_UNKNOWN = "–"


def methods_command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Tell all about this one.")] = None,
) -> None:
    """List the distillation methods, or tell what one matches, where, its cost, source and traps."""
    from rmrkd_cli.presets.methods import ALIASES, load_method, method_names
    from rmrkd_cli.terminal import console

    if name is not None:
        recipe = load_method(name)
        console.show_facts(recipe.title or name, [*_facts(ALIASES.get(name, name), recipe)])
        return
    recipes = {known: load_method(known) for known in method_names()}
    rows = [[known, recipe.title, _places(recipe), _cost(recipe)] for known, recipe in recipes.items()]
    notes = [
        "step: seconds relative to the baseline's, on demo's networks on a CPU", "",
        "rmrkd methods NAME tells all about one",
        "rmrkd train --preset PRESET --method NAME trains with one",
        "rmrkd train --preset PRESET --method FILE.py:CLASS with a class of yours",
    ]  # fmt: skip
    console.show_table("Methods", ["name", "method", "acts on", "step"], rows, notes)


def _facts(name: str, recipe: MethodRecipe) -> Iterator[tuple[str, str]]:
    """What is told of a method, each with its label."""
    about = recipe.about
    yield "use", f"rmrkd train --preset PRESET --method {name}"
    if about is not None:
        yield "matches", about.matches
        yield "formula", about.formula
    for label, loss in recipe.losses.items():
        yield f"loss {label}", _described(loss)
    for label in recipe.losses:
        yield f"weight of {label}", _weights(recipe, label)
    if about is not None:
        yield "learnable", about.learnable
        if about.cost is not None:
            yield "step", f"{_cost(recipe)} the baseline's, on demo's networks on a CPU (benchmarks/METHODS.md)"
        yield "source", about.source
        for trap in about.traps:
            yield "traps", f"- {trap}"


def _described(loss: LossSpec) -> str:
    options = loss.model_dump(exclude={"type", "stage", "weight"})
    told = ", ".join(
        f"{key}: {str(value).lower() if value in (True, False) else value}" for key, value in options.items()
    )
    return f"type {loss.type} on {_place(loss)}" + (f"; {told}" if told else "")


def _weights(recipe: MethodRecipe, name: str) -> str:
    from rmrkd_cli.presets.fields import AUTO
    from rmrkd_cli.presets.methods import is_fixed

    known = recipe.weights.get(name)
    if is_fixed(recipe, name):
        return f"{recipe.losses[name].weight:g} on every data set"
    rule = (
        f"{AUTO}: the weight that gives the loss the gradient norm of cross-entropy on the student's last stage at the "
        "start; --dry-run shows it"
    )
    if known is None:
        return rule
    by_weight: dict[float, list[str]] = {}
    for dataset, weight in known.values.items():
        by_weight.setdefault(weight, []).append(dataset)
    told = ", ".join(f"{weight:g} on {' and '.join(datasets)}" for weight, datasets in by_weight.items())
    return f"{told} ({known.source}); elsewhere {rule}"


def _places(recipe: MethodRecipe) -> str:
    return ", ".join(dict.fromkeys(_place(loss) for loss in recipe.losses.values()))


def _place(loss: LossSpec) -> str:
    places = loss.stage if isinstance(loss.stage, list) else [loss.stage]
    return " + ".join(f"stage {place}" if isinstance(place, int) else place for place in places)


def _cost(recipe: MethodRecipe) -> str:
    cost = recipe.about.cost if recipe.about is not None else None
    return f"{cost:.2f} x" if cost is not None else _UNKNOWN
