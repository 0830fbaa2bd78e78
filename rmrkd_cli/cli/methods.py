"""`rmrkd methods`"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.completion import complete_method

if TYPE_CHECKING:
    from rmrkd_cli.presets.loss_schema import LossSpec
    from rmrkd_cli.presets.schema import MethodRecipe

_UNKNOWN = "–"
_STEP = "relative to the baseline's, on the demo's networks on a CPU"


def methods_command(
    name: Annotated[
        str | None, typer.Argument(
            metavar="NAME", help="Show this method.", show_default="list all", autocompletion=complete_method
        ),
    ] = None,
) -> None:  # fmt: skip
    """List the distillation methods, or show one: formula, where it applies, cost, source, known problems.

    Examples:
        rmrkd methods
        rmrkd methods cirkd
    """
    from rmrkd_cli.presets.methods import ALIASES, load_method, method_names
    from rmrkd_cli.terminal import console

    if name is not None:
        recipe = load_method(name)
        console.print_fields(recipe.title or name, [*_fields(ALIASES.get(name, name), recipe)])
        return
    recipes = {known: load_method(known) for known in method_names()}
    rows = [[known, recipe.title, _places(recipe), _cost(recipe)] for known, recipe in recipes.items()]
    notes = [
        f"step: duration {_STEP}",
        "",
        "details: rmrkd methods NAME",
        "train with one: rmrkd train --preset PRESET --method NAME",
        "train with your own: rmrkd train --preset PRESET --method FILE.py:CLASS",
    ]
    console.print_table("Methods", ["name", "method", "acts on", "step"], rows, notes)


def _fields(name: str, recipe: MethodRecipe) -> Iterator[tuple[str, str]]:
    """Yield the label and the text of each field of a method."""
    from rmrkd_cli.presets.loss_schema import needs_labels
    from rmrkd_cli.terminal.text import join_and

    about = recipe.about
    yield "use", f"rmrkd train --preset PRESET --method {name}"
    if about is not None:
        yield "matches", about.matches
        yield "formula", about.formula
    for label, loss in recipe.losses.items():
        yield f"loss {label}", _describe_loss(loss)
    for label in recipe.losses:
        yield f"weight of {label}", _describe_weight(recipe, label)
    needing = [label for label, loss in recipe.losses.items() if needs_labels(loss.type)]
    if recipe.losses:
        yield "labels", f"needed by {join_and(needing)}" if needing else "not needed: trains on unlabelled images too"
    if about is not None:
        yield "learnable", about.learnable
        if about.cost is not None:
            yield "step", f"{_cost(recipe)} {_STEP} (benchmarks/METHODS.md)"
        yield "source", about.source
        for result in about.published:
            yield "published", f"- {result}"
        for problem in about.traps:
            yield "known problems", f"- {problem}"


def _describe_loss(loss: LossSpec) -> str:
    options = loss.model_dump(exclude={"type", "stage", "weight"})
    text = ", ".join(
        f"{key}: {str(value).lower() if value in (True, False) else value}" for key, value in options.items()
    )
    return f"type {loss.type} on {_place(loss)}" + (f"; {text}" if text else "")


def _describe_weight(recipe: MethodRecipe, name: str) -> str:
    """Return the weights of a loss on each data set, and the rule for other data sets."""
    from rmrkd_cli.presets.fields import AUTO
    from rmrkd_cli.presets.methods import is_fixed

    known = recipe.weights.get(name)
    if is_fixed(recipe, name):
        return f"{recipe.losses[name].weight:g} on every data set"
    rule = (
        f"{AUTO}: the weight with which the loss has the gradient norm of cross-entropy at the student's last stage, "
        "measured at the start; --dry-run prints it"
    )
    if known is None:
        return rule
    by_weight: dict[float, list[str]] = {}
    for dataset, weight in known.values.items():
        by_weight.setdefault(weight, []).append(dataset)
    weights = ", ".join(f"{weight:g} on {' and '.join(datasets)}" for weight, datasets in by_weight.items())
    return f"{weights} ({known.source}); elsewhere {rule}"


def _places(recipe: MethodRecipe) -> str:
    return ", ".join(dict.fromkeys(_place(loss) for loss in recipe.losses.values()))


def _place(loss: LossSpec) -> str:
    places = loss.stage if isinstance(loss.stage, list) else [loss.stage]
    return " + ".join(f"stage {place}" if isinstance(place, int) else place for place in places)


def _cost(recipe: MethodRecipe) -> str:
    cost = recipe.about.cost if recipe.about is not None else None
    return f"{cost:.2f} x" if cost is not None else _UNKNOWN
