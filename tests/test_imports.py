"""Which package may import which, read from the import statements."""

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

# Highest first: a package imports only packages below it. `docs/architecture.md` says what each is for.
ROOMS = (
    "cli", "api", "doctor", "report", "exporters", "prediction", "training", "comparison", "evaluation", "distributed",
    "distillation", "losses", "networks", "data", "results", "checkpoints", "presets", "installation", "storage",
    "terminal",
)  # fmt: skip
ROOT_MODULES = {"__init__.py", "__main__.py", "errors.py", "signals.py"}

# Each of these modules, and the only places that may import it; a place that ends with / is a folder.
ONLY_IN = {
    "mmcv": (
        "networks/mmseg.py", "networks/mmseg_file.py", "networks/mmseg_zoo.py", "installation/mmcv_ops.py", "data/",
    ),
    "mmseg": ("networks/mmseg.py", "installation/mmcv_ops.py", "data/"),
    "torchvision": ("networks/torchvision.py",),
    "segmentation_models_pytorch": ("networks/smp.py", "networks/smp_encoders.py"),
    "timm": ("networks/smp_encoders.py",),
    "transformers": ("networks/transformers.py", "networks/transformers_features.py"),
    "huggingface_hub": ("networks/hub.py",),
    "wandb": ("training/trackers/wandb.py",),
    "mlflow": ("training/trackers/mlflow.py",),
    "torch.utils.tensorboard": ("training/trackers/tensorboard.py",),
    "optuna": ("training/tuning/study.py", "cli/tune.py"),
    "typer": ("cli/",),
    "rich": ("terminal/", "cli/"),
    "rmrkd_cli.cli": ("__main__.py", "cli/"),
}  # fmt: skip
NEVER = ("click", "mmcls", "mmengine")  # typer carries its own click; the zoo's files are addressed, not imported
PURE = [file for file in FILES if file.startswith("losses/") or file == "evaluation/confusion_matrix.py"]
PURE_MAY_USE = (
    "torch",
    "rmrkd_cli.errors",
    "rmrkd_cli.losses",
    "rmrkd_cli.networks.winograd",
    "rmrkd_cli.presets.fields",
    *sys.stdlib_module_names,
)
LIGHT = ("installation/", "presets/", "results/", "terminal/", "storage/output_paths.py", "storage/cache.py")


@cache
def imported(file: str) -> frozenset[str]:
    """Return the dotted names of everything a file imports, at any depth: `from a import b` counts as `a.b`."""
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
    tree = ast.parse("from . import step\nfrom ..cli import main\nfrom .. import errors\nimport a.b")
    assert set(_names(tree, "training/trainer.py")) == {
        "rmrkd_cli.training.step",
        "rmrkd_cli.cli.main",
        "rmrkd_cli.errors",
        "a.b",
    }


def test_the_root_holds_four_modules_and_the_rooms() -> None:
    assert {file for file in FILES if "/" not in file} == ROOT_MODULES
    assert {Path(file).parts[0] for file in FILES if "/" in file} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    above = tuple(f"rmrkd_cli.{other}" for other in ROOMS[: ROOMS.index(room)])
    files = [file for file in FILES if file.startswith(f"{room}/")]
    assert files
    assert {file: upward for file in files if (upward := [n for n in imported(file) if within(n, above)])} == {}


@pytest.mark.parametrize("file", sorted(ROOT_MODULES - {"__main__.py", "__init__.py"}))
def test_errors_and_signals_import_no_room(file: str) -> None:
    assert not [name for name in imported(file) if within(name, tuple(f"rmrkd_cli.{room}" for room in ROOMS))]


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {file: len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in FILES}
    still_long = {"checkpoints/safety/pickle_scan.py"}
    assert {file: length for file, length in lengths.items() if length > 300 and file not in still_long} == {}


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
def test_losses_and_metrics_import_torch_and_errors_only(file: str) -> None:
    assert not {name for name in imported(file) if not within(name, PURE_MAY_USE)}


def test_there_are_losses_and_metrics_to_check() -> None:
    assert {"evaluation/confusion_matrix.py", "losses/__init__.py", "losses/rmrkd.py"} <= set(PURE)
    assert importers("torch") & set(PURE)


def test_the_schema_and_the_presets_need_no_network_library() -> None:
    light = {file for file in FILES if file.startswith(LIGHT)} - {"installation/mmcv_ops.py"}
    assert {"presets/schema.py", "presets/loader.py", "results/record.py"} <= light
    assert not light & importers("torch", "torchvision", "mmcv", "mmseg")
