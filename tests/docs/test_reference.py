"""The reference tables hold every key, default and method, and nothing else."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from rmrkd_cli.presets.loader import load_preset, preset_names, to_yaml
from rmrkd_cli.presets.methods import method_names, methods_without_labels
from rmrkd_cli.presets.schema import Preset
from tests.docs.pages import inline_code, page_text, tables
from tests.docs.tables import CUSTOM, TABLES, loss_defaults, loss_types, section
from tests.helpers.cli import rmrkd

KEYS = "docs/preset-keys.md"
SPLITS = ("data.val", "data.test")  # described by data.train
GROUPS = ("data", "teacher", "student", "losses", "schedule", "paper")


@pytest.mark.parametrize("page", TABLES)
def test_a_table_made_from_the_code_is_up_to_date(page: str) -> None:
    name, table = TABLES[page]
    assert section(name, table()) in page_text(page), "run `python -m tests.docs.tables`"


def documented() -> dict[str, list[str]]:
    """Return the rows of the tables of keys, by key without backticks."""
    rows: dict[str, list[str]] = {}
    for table in tables(KEYS):
        if table[0][0] == "key" and table[0][-1] == "default":
            for row in table[1:]:
                rows[row[0].strip("`")] = row
    return rows


def schema_keys(model: Any = Preset, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every key that the schema knows; of losses and schedules of a teacher only the group."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        yield key
        inner = next(iter(_models(field.annotation)), None)
        if inner is not None and key not in ("teacher.schedule", "losses"):
            yield from schema_keys(inner, f"{key}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for choice in typing.get_args(annotation):
            yield from _models(choice)


def test_every_key_of_the_schema_is_described_and_no_other() -> None:
    known = set(schema_keys())
    shared = {key for key in known if key.startswith(SPLITS) and key not in SPLITS}
    shared |= {f"teacher.{key}" for key in _below("student.", known)}
    assert set(documented()) == known - shared


def _below(prefix: str, keys: set[str]) -> set[str]:
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}


def test_the_defaults_are_those_of_the_schema() -> None:
    raw = {**CUSTOM, "student": {"config": "b.py", "checkpoint": {"path": "c.pth"}}}
    optional = {"lr": 0.1, "optimizer": {"type": "AdamW"}, "warmup": {"iters": 9}}
    resolved = {
        **_flat(yaml.safe_load(to_yaml(Preset.model_validate({**raw, "schedule": optional})))),
        **_flat(yaml.safe_load(to_yaml(Preset.model_validate(raw)))),
    }
    given = set(_flat(raw))
    checked = 0
    for key, row in documented().items():
        default = row[-1]
        if key not in GROUPS and key not in given and re.match(r"`.*`$", default):
            assert yaml.safe_load(default.strip("`")) == resolved[key] or default.strip("`") == str(resolved[key])
            checked += 1
        elif key in resolved and key not in given and key not in ("losses", "title", "schedule.warmup.iters"):
            raise AssertionError(f"{key} has the default {resolved[key]}, the page says {default}")
    assert checked > 25


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        key: part for name, inner in value.items() for key, part in _flat(inner, f"{prefix}.{name}".strip(".")).items()
    }


def test_choices_of_a_key_are_those_of_the_schema() -> None:
    for key, row in documented().items():
        choices = re.findall(r"`([^`]+)`", row[2])
        if len(choices) < 2 or not all(re.fullmatch(r"[a-z0-9]+", choice) for choice in choices):
            continue
        if key in ("name", "student.library"):  # a library needs more keys
            continue
        for choice in choices:
            assert _accepted(key, choice), f"{key}: {choice}"
        assert not _accepted(key, "nonsense"), key


def _accepted(key: str, value: object) -> bool:
    raw: dict[str, Any] = yaml.safe_load(to_yaml(Preset.model_validate(CUSTOM)))
    if key.startswith(("teacher.input", "teacher.output")):
        raw["teacher"] = {"library": "onnx", "file": "a.onnx"}
    node = raw
    for part in key.split(".")[:-1]:
        node = node.setdefault(part, {})
    node[key.split(".")[-1]] = value
    try:
        Preset.model_validate(raw)
    except ValueError:
        return False
    return True


def test_every_option_of_a_loss_is_explained_for_its_types() -> None:
    explained = {
        (kind.strip("` "), row[0].strip("`"))
        for table in tables(KEYS)
        if table[0][0] == "option"
        for row in table[1:]
        for kind in row[1].split(",")
        if ".py" not in kind
    }
    options = {(kind, key) for kind in loss_types() for key in loss_defaults(kind)}
    assert explained == {(kind, key) for kind, key in options if key not in ("type", "stage", "weight")}


def test_choices_of_a_loss_option_are_accepted() -> None:
    for table in tables(KEYS):
        for row in table[1:] if table[0][0] == "option" else []:
            for kind in re.findall(r"`(\w+)`", row[1]):
                for choice in re.findall(r"`([^`]+)`", row[3]):
                    loss = {"type": kind, row[0].strip("`"): yaml.safe_load(choice)}
                    Preset.model_validate({**CUSTOM, "losses": {"loss": loss}})


def test_the_methods_that_need_labels_are_named() -> None:
    rows = next(table for table in tables("docs/without-labels.md") if table[0] == ["images", "methods"])[1:]
    named = [set(re.findall(r"`([\w-]+)`", row[1].partition("not ")[2])) for row in rows[:2]]
    work, with_logits = (set(methods_without_labels(on_logits=only)) for only in (False, True))
    assert named == [set(method_names()) - work, work - with_logits]


def test_the_methods_command_lists_the_methods_of_the_table() -> None:
    printed = rmrkd("methods").stdout
    rows = next(table for table in tables("docs/methods.md") if table[0][0] == "`--method`")[1:]
    assert len(rows) > 15
    for row in rows:
        line = next(line for line in printed.splitlines() if line.split()[:1] == [row[0].strip("`")])
        assert row[-1] in line


def test_the_papers_figures_are_those_of_the_presets() -> None:
    found = tables("docs/paper-pairs.md")
    rows = {row[0].strip("`"): row[-2:] for table in found if table[0][0] == "preset" for row in table[1:]}
    presets = {name: load_preset(name) for name in preset_names()}
    published = {name: preset.paper for name, preset in presets.items() if preset.paper is not None}
    assert set(published) <= set(rows)
    for name, paper in published.items():
        assert rows[name] == [f"{paper.baseline:.2f}", f"{paper.distilled:.2f}"]


def test_figures_of_the_methods_are_those_of_the_benchmark() -> None:
    measured = page_text("docs/measurements.md")
    benchmark = page_text("benchmarks/METHODS.md").split("## Equal iterations\n")[1]
    table = next(table for table in tables("docs/measurements.md") if "equal iterations" in table[0][1])
    assert len(table) > 5
    for row in table[1:]:
        name = row[0].replace(" alone", "").strip("`")
        line = next(line for line in benchmark.splitlines() if line.startswith(f"| `{name}`"))
        cells = [cell.strip() for cell in line.split("|")]
        mean, spread = (float(part) for part in row[1].split("±"))
        assert abs(float(cells[2]) - mean) <= 0.051
        assert abs(float(cells[3]) - spread) <= 0.051
    assert "571" in measured
    assert "571" in page_text("benchmarks/RESULTS.md")


@pytest.mark.parametrize("page", ["README.md", "docs/measurements.md"])
def test_figures_of_camvid_are_those_of_the_benchmark(page: str) -> None:
    table = next(table for table in tables(page) if table[0][0] == "mIoU on 101 validation images")
    figures = [set(_signed_figures(" ".join(row[1:]))) for row in table[1:]]
    assert sum(map(len, figures)) > 15
    measured = [set(_signed_figures(line)) for line in page_text("benchmarks/CAMVID.md").splitlines()]
    for row, shown in zip(table[1:], figures, strict=True):
        assert any(shown <= each for each in measured), row


def _signed_figures(text: str) -> list[str]:
    return re.findall(r"[+-]?\d+\.\d\d", text)


def test_the_packages_of_the_architecture_page_are_those_that_the_import_test_orders() -> None:
    from tests.test_imports import ONLY_IN, ROOMS, ROOT_MODULES

    listed, rules = tables("docs/architecture.md")
    assert [row[0].strip("`") for row in listed[1:]] == list(ROOMS)
    assert set(inline_code("docs/architecture.md")) >= ROOT_MODULES
    for row in rules[1:]:
        only = re.fullmatch(r"(\w+)(?: and (\w+))? (?:is|are) imported only in", row[0])
        for module in only.groups() if only else ():
            assert module is None or re.findall(r"`([^`]+)`", row[1]) == list(ONLY_IN[module])


def test_readme_counts_the_methods() -> None:
    counted = re.search(r"RMRKD and (\d+) other methods", page_text("README.md"))
    assert counted is not None
    assert int(counted[1]) == len(method_names()) - 1
