"""The tables of `rmrkd eval` over several runs name each run."""

from __future__ import annotations

from typing import Any

import pytest

from rmrkd_cli.cli.eval import _print_records
from tests.comparison.test_comparison import record


def run(name: str, role: str, **protocol: Any) -> dict[str, Any]:
    made = record(role, name=name, checkpoint=f"work_dirs/{name}/{role}/student.pth", macs=1, parameters=1)
    made["protocol"] = {
        "dataset": "custom", "split": "val", "images": 40, "fingerprint": "abc", "classes": ["sky", "road", "never"],
        "scale": [96, 64], "scales": [1.0], "flip": False, "mode": "whole", **protocol,
    }  # fmt: skip
    return made


def test_the_runs_of_two_presets_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """They have other classes, so each gets a table; both had the rows `baseline, distill, teacher`."""
    roles = ("baseline", "distill", "teacher")
    other = {"classes": ["sky", "road", "car"]}
    records = [run("dup", role, **other) for role in roles] + [run("tiny", role) for role in roles]
    _print_records(records, confusion=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for name in ("dup", "tiny"):
        assert f"mIoU, %: {name}" in lines
        assert sum(line.startswith(f"{name} distill ") for line in lines) == 1
    assert not any(line.startswith(roles) for line in lines)


def test_the_runs_of_one_preset_keep_their_short_names(capsys: pytest.CaptureFixture[str]) -> None:
    _print_records([run("tiny", "baseline"), run("tiny", "distill")], confusion=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "mIoU, %" in lines
    assert sum(line.startswith(("baseline ", "distill ")) for line in lines) == 2
