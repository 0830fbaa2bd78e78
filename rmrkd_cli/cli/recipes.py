"""`rmrkd recipes`"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.completion import complete_recipe

if TYPE_CHECKING:
    from rmrkd_cli.presets.recipes import Recipe


def recipes_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE", help="Show this recipe.", show_default="list all", autocompletion=complete_recipe
        ),
    ] = None,
) -> None:
    """List the recipes that rmrkd train --recipe takes, or show one: changes, source, published and measured figures.

    Examples:
        rmrkd recipes
        rmrkd recipes long
    """
    from rmrkd_cli.presets.names import recipe_names
    from rmrkd_cli.presets.recipes import load_recipe
    from rmrkd_cli.terminal import console

    if name is not None:
        recipe = load_recipe(name)
        console.print_fields(recipe.title or name, [*_fields(name, recipe)])
        return
    recipes = {known: load_recipe(known) for known in recipe_names()}
    rows = []
    for known, recipe in recipes.items():
        about = recipe.about
        rows.append([known, recipe.title, about.published if about else "", about.measured if about else ""])
    notes = ["details: rmrkd recipes NAME", "train with one: rmrkd train --preset PRESET --recipe NAME"]
    console.print_table("Recipes", ["name", "recipe", "published", "measured"], rows, notes)


def _fields(name: str, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the label and the text of each field of a recipe."""
    from rmrkd_cli.presets.recipes import flow_yaml

    yield "use", f"rmrkd train --preset PRESET --recipe {name}"
    for key, value in recipe.preset.items():
        yield "changes", f"{key}: {flow_yaml(value)}"
    if recipe.about is None:
        return
    yield "source", recipe.about.source
    yield "published", recipe.about.published
    yield "measured", recipe.about.measured
    for text in recipe.about.stated:
        yield "stated", f"- {text}"
    for text in recipe.about.not_stated:
        yield "not stated", f"- {text}"
