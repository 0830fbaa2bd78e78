"""The recipes of CONTRIBUTING work: followed to the letter in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rmrkd_cli.data import datasets
from rmrkd_cli.networks import torchvision
from rmrkd_cli.presets import network_schema, schema
from tests.docs.pages import ROOT, blocks, prose

FILES = {block.title: block.text for block in blocks("CONTRIBUTING.md") if block.title}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of package and presets, with the files of the recipes and the command's registration."""
    folder = tmp_path_factory.mktemp("recipes")
    for name in ("rmrkd_cli", "presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        assert not (ROOT / name).exists()
        assert (folder / name).parent.is_dir()
        (folder / name).write_text(text, encoding="utf-8")
    app = folder / "rmrkd_cli/cli/app.py"
    register = re.search(r'`(app\.command\("hello", cls=Command\)\(\w+\(hello_command\)\))`', prose("CONTRIBUTING.md"))
    assert register is not None
    text = app.read_text(encoding="utf-8").replace(
        'app.command("train"', f'from rmrkd_cli.cli.hello import hello_command\n\n{register[1]}\napp.command("train"'
    )
    app.write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_new_command_runs_and_is_listed(copy: Path) -> None:
    assert run(copy, "-m", "rmrkd_cli", "hello", "world") == "hello world\n"
    assert "Print a greeting." in run(copy, "-m", "rmrkd_cli", "--help")
    assert "rmrkd hello world" in run(copy, "-m", "rmrkd_cli", "hello", "--help")


def test_the_new_method_is_listed_and_its_option_is_a_key(copy: Path) -> None:
    assert "huber_loss" not in run(copy, "-m", "rmrkd_cli", "methods")
    assert "delta: 1.0" in run(copy, "-m", "rmrkd_cli", "methods", "huber")
    train = ("-m", "rmrkd_cli", "train", "--preset", "demo", "--method", "huber", "--print-config")
    assert "delta: 2.0" in run(copy, *train, "--set", "losses.huber.delta=2")


@pytest.mark.slow
def test_the_new_loss_trains(copy: Path) -> None:
    train = ("-m", "rmrkd_cli", "train", "--preset", "demo", "--method", "huber", "--max-iters", "2")
    assert "mean IoU" in run(copy, *train)


def test_the_recipe_of_a_data_set_names_what_exists() -> None:
    assert {"DATASETS", "DatasetName"} <= set(dir(schema))
    assert "DatasetInfo" in dir(datasets)
    source = Path(datasets.__file__).read_text(encoding="utf-8")
    assert source.rstrip().splitlines()[-2].strip().startswith('"custom":')


def test_the_recipe_of_a_library_names_what_exists() -> None:
    assert {"Network", "Library"} <= set(dir(network_schema))
    wanted = {"network_config", "build_network", "weights_source", "is_whole"}
    assert wanted <= set(dir(torchvision))
    assert "ONLY_IN" in (ROOT / "tests/test_imports.py").read_text(encoding="utf-8")
