"""The public Python API: every name of `rmrkd_cli.__all__`, imported on first use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rmrkd_cli
from rmrkd_cli.losses import LOSSES
from tests.helpers.students import random_student


def test_the_package_alone_imports_no_torch() -> None:
    heavy = "{'torch', 'mmcv', 'mmseg', 'pydantic'}"
    code = f"import sys, rmrkd_cli; dir(rmrkd_cli); print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", rmrkd_cli.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(rmrkd_cli, name)
    assert name in dir(rmrkd_cli)
    assert name == "LOSSES" or value.__doc__


def test_every_loss_is_public() -> None:
    assert {loss.__name__ for loss in LOSSES.values()} <= set(rmrkd_cli.__all__)
    assert rmrkd_cli.LOSSES is LOSSES


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(rmrkd_cli.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    assert {alias.name for node in guarded.body for alias in node.names} == set(rmrkd_cli.__all__)  # type: ignore[attr-defined]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="`rmrkd_cli` has no attribute `Trainer`"):
        rmrkd_cli.Trainer  # noqa: B018


def test_a_network_is_loaded_from_its_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "student.pth"
    written = random_student(file, "demo")
    loaded = rmrkd_cli.load_network(file)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    assert not loaded.training
    with torch.no_grad():
        logits = loaded.encode_decode(images, None)  # type: ignore[operator]
        expected = written.encode_decode(images, None)  # type: ignore[operator]
    assert logits.shape[2:] == (64, 96)
    assert torch.equal(logits, expected)
    with torch.no_grad():
        assert torch.equal(rmrkd_cli.segment(loaded, images), expected)
