"""Presets in `examples` are valid, and begin with the command that runs them."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path

import pytest

from rmrkd_cli.presets.loader import load_preset
from tests.helpers.cli import rmrkd

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_begins_with_its_command(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, with `--print-config`, prints the preset with the files that it names."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(example.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
    assert words[:4] == ["rmrkd", "train", "--preset", f"examples/{example.name}"]
    outcome = rmrkd(*words[1:], "--print-config")
    assert outcome.exit_code == 0, outcome.message
    for option, file in itertools.pairwise(words):
        if option.endswith("-checkpoint"):
            assert file in outcome.stdout


def test_the_three_of_camvid_differ_in_what_teaches_only() -> None:
    presets = [load_preset(str(ROOT / f"examples/camvid-{name}.yaml")) for name in
               ("labels", "labels-and-teacher", "teacher")]  # fmt: skip
    common = [
        json.dumps([preset.student.model_dump(), preset.schedule.model_dump(), preset.seed]) for preset in presets
    ]
    assert len(set(common)) == 1
    assert [preset.role for preset in presets] == ["baseline", "distill", "distill"]
