"""Shell completion: what Tab offers, and that it answers without loading a network library."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rmrkd_cli.cli.app import app
from rmrkd_cli.presets.loader import load_preset, preset_names
from rmrkd_cli.presets.methods import load_method, method_names

_SCRIPT = """
import json, sys
from typer.testing import CliRunner
from rmrkd_cli.cli.app import app
for line in json.loads(sys.argv[1]):
    words = line.split(" ")
    env = {"_RMRKD_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    assert CliRunner().invoke(app, [], prog_name="rmrkd", env=env).stdout
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def complete(line: str) -> list[str]:
    """Return what bash offers at the end of a line."""
    env = {"_RMRKD_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    result = CliRunner().invoke(app, [], prog_name="rmrkd", env=env)
    assert result.exit_code == 0
    return result.stdout.split()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_offered(folder: Path) -> None:
    assert complete("rmrkd train --preset psp101-") == [name for name in preset_names() if name.startswith("psp101-")]
    assert complete("rmrkd presets de") == ["demo"]
    assert complete("rmrkd train --preset demo --method cirkd-") == [
        "cirkd-channel",
        "cirkd-memory",
        "cirkd-mini-batch",
    ]
    assert complete("rmrkd methods ") == method_names()
    assert complete("rmrkd train --role d") == ["distill"]
    assert complete("rmrkd eval --dataset c") == ["cityscapes", "camvid"]
    assert complete("rmrkd data prepare ") == ["cityscapes", "voc12aug"]
    assert complete("rmrkd ini") == ["init"]
    assert {"--teacher-checkpoint", "--teacher-outputs"} <= set(complete("rmrkd train --teacher-"))


def test_preset_files_and_folders_are_offered(folder: Path) -> None:
    (folder / "sub/.hidden").mkdir(parents=True)
    for name in ("demonstration.yaml", "demo.txt", "sub/mine.yml", "sub/.x.yaml"):
        (folder / name).touch()
    assert complete("rmrkd train --preset demo") == ["demo", "demonstration.yaml"]
    assert complete("rmrkd networks --preset sub") == ["sub/"]
    assert complete("rmrkd data check --preset sub/") == ["sub/mine.yml"]
    assert complete("rmrkd data check --preset none/x") == []


def test_titles_are_those_of_the_files(folder: Path) -> None:
    """They are found without a YAML parser."""
    from rmrkd_cli.cli.completion import complete_method, complete_preset

    assert dict(complete_preset("")) == {name: load_preset(name).title for name in preset_names()}
    assert dict(complete_method("")) == {name: load_method(name).title for name in method_names()}


def test_completion_imports_no_network_library_and_takes_no_longer_than_the_version(folder: Path) -> None:
    lines = ["rmrkd train --preset d", "rmrkd methods k", "rmrkd train --role ", "rmrkd data check c"]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps(lines)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stdout))
    heavy = {"torch", "torchvision", "mmcv", "mmseg", "cv2", "numpy", "transformers", "onnxruntime"}
    assert imported & heavy == set()
    version = _cpu_seconds(["--version"], {})
    env = {"_RMRKD_COMPLETE": "complete_bash", "COMP_WORDS": "rmrkd train --preset d", "COMP_CWORD": "3"}
    assert _cpu_seconds([], env) < 1.5 * version + 0.3


def _cpu_seconds(arguments: list[str], env: dict[str, str]) -> float:
    """Return the CPU time of a command; the time on the clock would depend on other processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "rmrkd_cli", *arguments]
    subprocess.run(command, env={**os.environ, **env}, capture_output=True, check=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
