"""A message names only options that its command has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import typer

from tests.helpers.cli import COMMAND, rmrkd
from tests.helpers.students import random_student

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHER_COMMAND = re.compile(r"rmrkd [a-z]+[^,;.`]*|`[^`]*`")  # of which a hint may name options


def options_of(command: str) -> set[str]:
    params = COMMAND.get_command(typer.Context(COMMAND), command).params  # type: ignore[attr-defined]
    return {name for param in params for name in (*param.opts, *param.secondary_opts)}


def unknown_options(command: str, text: str) -> set[str]:
    return {*OPTION.findall(OTHER_COMMAND.sub("", text))} - options_of(command)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder with a student, one that lacks a tensor, one of another library, and an ONNX file."""
    folder = tmp_path_factory.mktemp("files")
    random_student(folder / "student.pth", str(tiny))
    contents = torch.load(folder / "student.pth", weights_only=True)
    state = contents["state_dict"]
    torch.save({**contents, "state_dict": dict(list(state.items())[1:])}, folder / "cut.pth")
    torch.save({"state_dict": {**state, "backbone.conv1.weight": torch.ones(1)}}, folder / "bare.pth")
    torch.save({"encoder.a.w": torch.ones(1), "decoder.w.w": torch.ones(1), "segmentation_head.w": torch.ones(1)},
               folder / "smp.pth")  # fmt: skip
    (folder / "student.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    (folder / "image.png").write_bytes(b"x")
    (folder / "taken").mkdir()
    (folder / "taken" / "x").write_text("x")
    (folder / "taken.json").write_text("{}")
    return folder


COMMANDS = {
    "predict": "predict {file} image.png",
    "export": "export {file} out.pt",
    "eval": "eval {file} --data-root data",
    "compare": "compare {file} {file} --data-root data",
    "transfer": "transfer {file} out.pth",
}
FILES = ("missing.pth", "cut.pth", "bare.pth", "smp.pth", "student.onnx")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("file", FILES)
def test_the_wrong_checkpoint(command: str, file: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "transfer" and file in ("cut.pth", "bare.pth"):
        return  # it needs no network
    monkeypatch.chdir(files)
    outcome = rmrkd(*COMMANDS[command].format(file=file).split())
    assert outcome.exit_code == 2
    assert unknown_options(command, f"{outcome.message} {outcome.hint}") == set()


@pytest.mark.parametrize(
    "line",
    [
        "predict student.pth image.png", "eval student.pth", "compare student.pth student.pth",
        "train --preset demo --work-dir new", "train --preset demo --dry-run",
    ],
)  # fmt: skip
def test_a_device_that_is_not_there(line: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = rmrkd(*line.split(), "--device", "cuda")
    assert outcome.exit_code == 2
    assert "--device cuda" in outcome.message
    assert "--device cpu" in outcome.hint
    assert "--gpus" not in outcome.message + outcome.hint
    assert unknown_options(line.split()[0], f"{outcome.message} {outcome.hint}") == set()


@pytest.mark.parametrize(
    "line",
    [
        "predict student.pth image.png --out taken", "export student.pth taken.json --format onnx",
        "eval student.pth --json taken.json", "compare student.pth student.pth --json taken.json",
        "compare student.pth student.pth --report taken", "transfer student.pth taken.json",
    ],
)  # fmt: skip
def test_a_result_that_exists_names_force(line: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    outcome = rmrkd(*line.split())
    assert outcome.exit_code == 2
    assert "--force" in outcome.hint
    assert unknown_options(line.split()[0], f"{outcome.message} {outcome.hint}") == set()
