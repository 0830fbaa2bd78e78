"""Method recipes: complete, consistent with the losses there are, and weighted as their sources say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rmrkd_cli.losses import LOSSES
from rmrkd_cli.presets.loader import load_preset, preset_names, to_yaml
from rmrkd_cli.presets.methods import load_method, method_names, weight_origin
from rmrkd_cli.presets.names import OWN_METHOD
from tests.helpers.cli import rmrkd

TABLE = Path(__file__).parents[2] / "benchmarks" / "METHODS.md"
every_method = pytest.mark.parametrize("name", method_names())


def test_every_loss_has_a_recipe() -> None:
    assert {loss.type for name in method_names() for loss in load_method(name).losses.values()} == set(LOSSES)


@every_method
def test_a_recipe_tells_all_of_its_method(name: str) -> None:
    recipe = load_method(name)
    about = recipe.about
    assert recipe.title
    assert about is not None
    assert all([about.matches, about.formula, about.source, about.traps])
    assert re.search(r"(19|20)\d\d", about.source)
    assert recipe.weights.keys() <= recipe.losses.keys()


@every_method
def test_the_cost_told_is_the_cost_measured(name: str) -> None:
    rows = [line.split("|") for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    costs = [float(row[2]) for row in rows if len(row) > 4 and row[1].strip() == f"cost of `{name}`"]
    about = load_method(name).about
    assert about is not None
    assert ([about.cost] if about.cost is not None else []) == costs


@every_method
@pytest.mark.parametrize("pair", ["dl101-dlmbv2-city", "psp101-dl18-voc12aug", "psp18w32-psp18w8-camvid", "demo"])
def test_a_weight_is_its_sources_for_the_data_set_or_left_to_the_rule(name: str, pair: str) -> None:
    preset, recipe = load_preset(pair, method=name), load_method(name)
    if name == "rmrkd":
        assert preset == load_preset(pair)
        return
    for loss, spec in preset.losses.items():
        known = recipe.weights[loss].values.get(preset.dataset) if loss in recipe.weights else None
        fixed = recipe.losses[loss].weight if "weight" in recipe.losses[loss].model_fields_set else None
        assert spec.weight == (fixed if fixed is not None else known if known is not None else "auto")


def test_the_parts_of_rmrkd_stay_as_they_are_in_a_released_preset() -> None:
    for preset in ("psp101-psp18-city", "psp101-dl18-city", "psp101-psp18-voc12aug"):
        own = load_preset(preset).losses
        for method, loss in (("cross-similarity", "rmrkd"), ("mgd", "mgd"), ("dkd-region", "dkd")):
            assert load_preset(preset, method=method).losses == {loss: own[loss]}


@pytest.mark.parametrize(
    ("preset", "method", "loss", "told"),
    [
        ("psp101-psp18-city", "mgd", "mgd", "its source's for cityscapes: released configurations of MGD and RMRKD"),
        ("psp101-psp18-city", "cross-similarity", "rmrkd", "as the preset says"),
        ("psp101-psp18-city", "rmrkd", "rmrkd", "as the preset says"),
        ("psp101-psp18-city", "rmrkd", "mgd", "its source's for cityscapes: released configurations of RMRKD"),
        ("demo", "rmrkd", "mgd", "as the preset says"),
        ("demo", "mgd", "mgd", "by the rule of equal gradients"),
        ("demo", "dsd", "csd", "the recipe's on every data set"),
        ("psp101-psp18-city", "idd", "idd", "by the rule of equal gradients"),
    ],
)
def test_the_origin_of_a_weight_is_told(preset: str, method: str, loss: str, told: str) -> None:
    assert weight_origin(load_preset(preset, method=method), loss) == told
    change = f"losses.{loss}.weight=0.123"
    given = load_preset(preset, method=method, overrides=[change])
    assert weight_origin(given, loss, [change]) == "as --set says"


OWN = """
dataset: {dataset}
data: {{classes: [a, b], train: {{images: i, labels: l}}, val: {{images: i, labels: l}}, train_scale: [64, 64]}}
teacher: {{config: a.py}}
student: {{config: b.py}}
losses: {losses}
"""


@pytest.mark.parametrize(
    ("dataset", "loss", "weight"),
    [
        ("custom", "{type: mgd}", "auto"),
        ("custom", "{type: dkd}", "auto"),
        ("custom", "{type: rmrkd}", "auto"),
        ("custom", "{type: csd}", 10.0),  # its source gives it on every data set
        ("custom", "{type: mgd, weight: 3}", 3.0),
        ("camvid", "{type: mgd}", "auto"),
        ("ade20k", "{type: kd}", "auto"),
        ("city", "{type: mgd}", 2e-5),
        ("voc", "{type: dkd}", 1.0),
        ("cityscapes", "{type: rmrkd, stage: 3}", 1.0),
        ("cityscapes", "{type: rmrkd, stage: head}", "auto"),  # published for stages 3 and 4
        ("cityscapes", "{type: cwd}", 3.0),
        ("cityscapes", "{type: cwd, stage: head}", "auto"),
        ("cityscapes", "{type: cwd, weight: auto}", "auto"),
        ("cityscapes", "{type: dist, stage: aux}", 0.4),
        ("voc12aug", "{type: cirkd_memory}", 0.01),
        ("cityscapes", "{type: idd}", "auto"),
        ("cityscapes", "{type: 'own.py:Loss'}", "auto"),
    ],
)
def test_a_preset_without_weights_follows_the_rule_of_methods(
    dataset: str, loss: str, weight: object, tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(OWN.format(dataset=dataset, losses=f"{{x: {loss}}}"))
    preset = load_preset(str(file))
    assert preset.losses["x"].weight == weight
    said = "weight:" in loss
    assert (weight_origin(preset, "x") == "as the preset says") == (said and weight != "auto")
    file.write_text(to_yaml(preset))
    assert load_preset(str(file)) == preset


@pytest.mark.parametrize("name", [name for name in preset_names() if load_preset(name).method == OWN_METHOD])
def test_preset_and_method_give_the_same_weights(name: str) -> None:
    """Of the paper's pairs; the presets of other data sets write theirs down."""
    preset = load_preset(name)
    for method, loss in (("cross-similarity", "rmrkd"), ("mgd", "mgd"), ("dkd-region", "dkd")):
        other = load_preset(name, method=method).losses[loss].weight
        assert other == (preset.losses[loss].weight if preset.dataset in ("cityscapes", "voc12aug") else "auto")


def test_the_name_of_before_still_works() -> None:
    old, new = (load_preset("demo", method=name) for name in ("dkd", "dkd-region"))
    assert (old, old.method) == (new, "dkd-region")


def test_all_of_a_recipe_is_told() -> None:
    told, about = " ".join(rmrkd("methods", "dkd").stdout.split()), load_method("dkd-region").about
    assert about is not None
    for text in (about.matches, about.formula, about.source, *(f"- {trap}" for trap in about.traps)):
        assert " ".join(text.split()) in told
    assert "--method dkd-region" in told
    assert "type dkd on logits; tau: 4.0, target_weight: 4.0, non_target_weight: 4.0" in told


def test_a_recipe_that_tells_nothing_of_itself_is_listed_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "plain.yaml").write_text("losses: {a: {type: kd, weight: 3}, b: {type: cwd, stage: head}}")
    (tmp_path / "methods" / "rmrkd.yaml").write_text("losses: {mgd: {type: mgd}}")
    for module in ("names", "methods"):
        monkeypatch.setattr(f"rmrkd_cli.presets.{module}.preset_dir", lambda: tmp_path)
    listed, shown = rmrkd("methods").stdout, rmrkd("methods", "plain").stdout
    assert re.search(r"plain +logits, head +–", listed)
    assert "3 on every data set" in shown
    assert "type cwd on head" in shown
    assert "auto: " in shown
    assert "the gradient norm of cross-entropy" in " ".join(shown.split())


def test_lines_to_copy_fit_a_narrow_terminal() -> None:
    commands = [line for line in rmrkd("methods").stdout.splitlines() if re.match(r"[a-z ]+: rmrkd ", line)]
    assert len(commands) == 3
    assert all(len(line.rstrip()) <= 80 for line in commands)
