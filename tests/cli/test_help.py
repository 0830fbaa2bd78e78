"""Fast commands: help, version and presets import neither torch nor mmcv, and transfer imports torch alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from rmrkd_cli import __version__
from rmrkd_cli.presets.loader import preset_names
from rmrkd_cli.presets.methods import method_names
from tests.report.html import synthetic

COMMANDS = (
    "train", "eval", "transfer", "compare", "plot", "predict", "export", "presets", "methods", "data", "doctor",
    "setup", "networks", "init", "recipes", "tune",
)  # fmt: skip
_SCRIPT = """
import json, sys
from typer.testing import CliRunner
from rmrkd_cli.cli.app import app
answers = []
for args in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, args, prog_name="rmrkd", env={"NO_COLOR": "1", "COLUMNS": "160"})
    libraries = {"torch", "torchvision", "mmcv", "mmseg", "cv2", "matplotlib"}
    heavy = sorted({name.split(".")[0] for name in sys.modules} & libraries)
    late = ("torch._dynamo", "rmrkd_cli.presets.schema")
    heavy += [name for name in late if "torch" in heavy and name in sys.modules]
    answers.append([result.exit_code, repr(result.exception), result.stdout, result.stderr, heavy[:5]])
print(json.dumps(answers))
"""


class Answer(NamedTuple):
    code: int
    exception: str
    stdout: str
    stderr: str
    heavy: list[str]


def run_in_new_process(folder: Path, *commands: list[str]) -> list[Answer]:
    """Run commands in one new process. Each answer lists the large modules that were imported until then."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps(commands)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [Answer(*answer) for answer in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--help"], COMMANDS),
        (["--version"], [f"rmrkd {__version__}"]),
        (["presets"], [*preset_names(), *method_names(), "69.37", "75.72"]),
        (["methods"], [*method_names(), "stage 4", "logits, head"]),
        (
            ["methods", "cirkd-mini-batch"],
            ["formula", "arXiv 2204.06986", "type cirkd on head", "1 on cityscapes", "auto: "],
        ),
        (
            ["presets", "psp101-psp18-city"],
            ["# rmrkd train --preset psp101-psp18-city\n", "baseline: 69.37", "distilled: 75.72", "weight: 0.1"],
        ),
    ],
    ids=["help", "version", "presets", "methods", "one method", "one preset"],
)
def test_answers_without_a_network_library(args: list[str], parts: list[str], tmp_path: Path) -> None:
    [answer] = run_in_new_process(tmp_path, args)
    assert (answer.code, answer.exception, answer.stderr, answer.heavy) == (0, "None", "", [])
    assert [text for text in parts if text not in answer.stdout] == []
    assert list(tmp_path.iterdir()) == []


def test_transfer_needs_torch_alone(tmp_path: Path) -> None:
    """Its help, in the same process before, needs nothing."""
    import torch

    torch.save({"meta": {}, "state_dict": {"student.decode_head.w": torch.ones(3)}}, tmp_path / "in.pth")
    help_answer, *transferred = run_in_new_process(
        tmp_path, ["transfer", "--help"], *(["transfer", "in.pth", f"out.{form}"] for form in ("pth", "safetensors"))
    )
    assert help_answer.heavy == []
    assert [(answer.code, answer.heavy) for answer in transferred] == [(0, ["torch"])] * 2


def test_a_data_set_is_checked_without_torch(tmp_path: Path) -> None:
    """The class names of `cityscapes` are read from the text of mmsegmentation, which is not imported."""
    commands = ["data", "check", "cityscapes", "--data-root", "none"], ["data", "prepare", "city"]
    for answer in run_in_new_process(tmp_path, *commands):
        assert answer.code == 1
        assert "RmrkdError" in answer.exception
        assert not {"torch", "mmcv", "mmseg"} & set(answer.heavy)


def test_help_of_every_command_needs_no_network_library(tmp_path: Path) -> None:
    for command, answer in zip(
        COMMANDS, run_in_new_process(tmp_path, *([name, "--help"] for name in COMMANDS)), strict=True
    ):
        assert (answer.code, answer.heavy) == (0, []), command
        assert f"Usage: rmrkd {command}" in answer.stdout


def test_curves_are_drawn_without_torch(tmp_path: Path) -> None:
    synthetic.log(tmp_path / "run")
    help_answer, plotted = run_in_new_process(tmp_path, ["plot", "--help"], ["plot", "run"])
    assert (help_answer.code, help_answer.heavy) == (0, [])
    assert (plotted.code, plotted.exception, plotted.heavy) == (0, "None", ["matplotlib"])
    assert (tmp_path / "curves.png").is_file()
