"""Who imports whom, read from the import statements: downwards only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import rmrkd_cli

PACKAGE = Path(rmrkd_cli.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# Each of these modules, and the only places that may import it; a place that ends with / is a folder.
ONLY_IN = {
    "mmcv": ("models.py", "mmcv_ops.py", "checkpoint.py", "data/"),
    "mmseg": ("models.py", "mmcv_ops.py", "checkpoint.py", "data/"),
    "typer": ("app.py", "commands/"),
    "rich": ("console.py",),
    "rmrkd_cli.app": ("__main__.py",),
    "rmrkd_cli.commands": ("app.py", "commands/"),
    "rmrkd_cli.engine": ("commands/", "engine/"),
    "rmrkd_cli.distiller": ("engine/",),
}
NEVER = ("click", "mmcls", "mmengine")  # typer carries its own click; the zoo's files are addressed, not imported
PURE = [file for file in FILES if file.startswith("losses/") or file == "metrics.py"]
PURE_MAY_USE = ("torch", "rmrkd_cli.errors", "rmrkd_cli.losses", *sys.stdlib_module_names)


@cache
def imported(file: str) -> frozenset[str]:
    """Dotted names of everything a file imports, at whatever depth: `from a import b` counts as `a.b`."""
    return frozenset(_names(ast.parse((PACKAGE / file).read_text(encoding="utf-8")), file))


def _names(tree: ast.AST, file: str) -> Iterator[str]:
    package = ["rmrkd_cli", *Path(file).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def importers(*modules: str) -> set[str]:
    return {file for file in FILES if any(within(name, modules) for name in imported(file))}


def test_relative_imports_are_seen() -> None:
    tree = ast.parse("from . import step\nfrom ..app import main\nfrom .. import console\nimport a.b")
    assert set(_names(tree, "engine/trainer.py")) == {
        "rmrkd_cli.engine.step",
        "rmrkd_cli.app.main",
        "rmrkd_cli.console",
        "a.b",
    }


@pytest.mark.parametrize("module", ONLY_IN)
def test_only_these_places_import(module: str) -> None:
    found, places = importers(module), ONLY_IN[module]
    folders = tuple(place for place in places if place.endswith("/"))
    strangers = {file for file in found if file not in places and not file.startswith(folders)}
    assert found
    assert not strangers


@pytest.mark.parametrize("module", NEVER)
def test_nothing_imports(module: str) -> None:
    assert not importers(module)


@pytest.mark.parametrize("file", PURE)
def test_losses_and_metrics_know_torch_and_errors_only(file: str) -> None:
    assert not {name for name in imported(file) if not within(name, PURE_MAY_USE)}


def test_there_are_losses_and_metrics_to_check() -> None:
    assert {"metrics.py", "losses/__init__.py", "losses/rmrkd.py"} <= set(PURE)
    assert importers("torch") & set(PURE)


@pytest.mark.parametrize(
    "layer", ["engine/", "data/", "losses/", "distiller.py", "models.py", "metrics.py", "report.py"]
)
def test_nothing_below_knows_the_command_line(layer: str) -> None:
    files = {file for file in FILES if file.startswith(layer)}
    assert files
    assert not files & importers("rmrkd_cli.app", "rmrkd_cli.commands", "typer")


@pytest.mark.parametrize("file", ["distiller.py", "metrics.py", "checkpoint.py", "models.py", "report.py"])
def test_the_engine_is_above(file: str) -> None:
    assert file not in importers("rmrkd_cli.engine")


def test_the_schema_and_the_presets_need_no_network_library() -> None:
    light = {
        "app.py",
        "schema.py",
        "presets.py",
        "errors.py",
        "console.py",
        "cache/__init__.py",
        "record.py",
        "values.py",
    }
    light |= {"visible.py", "yaml_text.py", "strict.py", "loss_schema.py", "validated.py", "methods.py"}
    light |= {file for file in FILES if file.startswith("installation/")}
    assert light <= set(FILES)
    assert not light & importers("torch", "torchvision", "mmcv", "mmseg", "rmrkd_cli.engine", "rmrkd_cli.models")
