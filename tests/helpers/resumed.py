"""Stop a run in its middle, and resume a finished one from there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from rmrkd_cli.training.optimizer_step import TrainStep
from tests.helpers.cli import rmrkd


def stop_in_step(monkeypatch: pytest.MonkeyPatch, position: float = 2) -> None:
    """Send SIGTERM in each step from this position in the schedule on; the first step is at 0."""
    backward = TrainStep.backward

    def stopped(self: TrainStep, batches: Any, at: float) -> Any:
        if at >= position:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(self, batches, at)

    monkeypatch.setattr(TrainStep, "backward", stopped)


def assert_resumed_exactly(trained: Path, tmp_path: Path) -> None:
    """Continue a copy of a distillation from iteration 2; every tensor of its student equals the original's.

    Args:
        trained: Work directory of a run of all roles with checkpoints at every second iteration.
    """
    before, run = trained / "distill", tmp_path / "distill"
    run.mkdir()
    for name in ("config.yaml", "iter_2.pth", "log.jsonl"):
        (run / name).write_bytes((before / name).read_bytes())
    (run / "last.pth").write_bytes((before / "iter_2.pth").read_bytes())
    common = ("train", "--preset", run / "config.yaml", "--work-dir", tmp_path, "--device", "cpu")
    outcome = rmrkd(*common, "--role", "distill", "--resume", "--teacher-checkpoint", trained / "teacher/student.pth")
    assert outcome.exit_code == 0, outcome.message
    expected, got = (torch.load(path / "student.pth", weights_only=True)["state_dict"] for path in (before, run))
    assert all(torch.equal(got[key], value) for key, value in expected.items())
