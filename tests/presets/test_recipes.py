"""Recipes: what they change in a preset, in which order, and what they say of their source."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset, preset_names, to_yaml
from rmrkd_cli.presets.names import recipe_names
from rmrkd_cli.presets.recipes import load_recipe
from tests.docs.pages import blocks
from tests.helpers.cli import rmrkd


def test_long_changes_the_losses_alone() -> None:
    """Its source states no schedule: the preset's is kept, and the weights are those of the methods."""
    plain, long = load_preset("psp101-psp18-city"), load_preset("psp101-psp18-city", recipe="long")
    assert {name: (spec.type, spec.stage, spec.weight) for name, spec in long.losses.items()} == {
        "kd": ("kd", "logits", 1.0),
        "fitnet": ("fitnet", "head", 10.0),
    }
    assert long.method == "long"
    changed = {key for key in type(plain).model_fields if getattr(plain, key) != getattr(long, key)}
    assert changed == {"losses", "method"}
    assert {spec.weight for spec in load_preset("demo", recipe="long").losses.values()} == {"auto"}


def test_the_preset_of_long_is_the_pair_with_the_recipe() -> None:
    preset = load_preset("psp101-psp18-city-long")
    pair = load_preset("psp101-psp18-city", recipe="long", overrides=["schedule.iters=160000"])
    own = {"name": preset.name, "title": preset.title, "teacher": preset.teacher, "paper": None}
    assert preset == pair.model_copy(update=own)
    assert preset.teacher.reported_miou == 79.76
    assert "published 79.0, not measured here" in preset.title


def test_its_figures_are_marked_as_published() -> None:
    shown = " ".join(rmrkd("recipes", "long").stdout.split())
    texts = (
        "79.0 mIoU on Cityscapes, its teacher PSPNet-R101 79.8", "published, not measured here", "2604.25530",
        "the abstract", "No code is published", "schedule: iterations, batch size, crop, learning rate",
    )  # fmt: skip
    assert [text for text in texts if text not in shown] == []
    assert "published, not measured here" in rmrkd("recipes").stdout


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("preset", preset_names())
def test_every_recipe_fits_every_preset_and_its_config_replays(recipe: str, preset: str, tmp_path: Path) -> None:
    changed = load_preset(preset, recipe=recipe)
    (tmp_path / "config.yaml").write_text(to_yaml(changed))
    assert load_preset(str(tmp_path / "config.yaml")) == changed
    about = load_recipe(recipe).about
    assert about is not None
    assert about.source
    assert about.measured


def test_a_file_is_laid_over_the_preset_and_set_wins(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("docs/recipes.md") if block.title == "short.yaml")
    file = tmp_path / "short.yaml"
    file.write_text(block.text)
    preset = load_preset("demo", recipe=str(file), overrides=["schedule.iters=7"])
    plain = load_preset("demo")
    assert (preset.schedule.iters, preset.schedule.lr) == (7, 0.05)
    assert preset.schedule.crop == plain.schedule.crop
    assert preset.losses == plain.losses
    printed = rmrkd("train", "--preset", "demo", "--recipe", file, "--print-config").stdout
    assert yaml.safe_load(printed)["schedule"]["iters"] == 100


def test_mistakes_in_recipes(tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match="unknown recipe `lang`, did you mean `long`"):
        load_preset("demo", recipe="lang")
    (tmp_path / "bad.yaml").write_text("preset: {schedule: {itres: 3}}")
    with pytest.raises(RmrkdError, match=r"schedule: unknown key|schedule.itres: unknown key"):
        load_preset("demo", recipe=str(tmp_path / "bad.yaml"))
    (tmp_path / "flat.yaml").write_text("schedule: {iters: 3}")
    with pytest.raises(RmrkdError, match="preset: required, but missing"):
        load_preset("demo", recipe=str(tmp_path / "flat.yaml"))
    outcome = rmrkd("train", "--preset", "demo", "--recipe", "long", "--method", "kd")
    assert (outcome.exit_code, outcome.message) == (2, "--recipe and --method exclude each other")
