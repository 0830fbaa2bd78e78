"""The data root and the network of untrusted checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.evaluation import run
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd


def test_the_data_root_of_a_foreign_checkpoint_is_ignored(tiny: Path, camvid: Path, tmp_path: Path) -> None:
    """The root of a custom data set is used only if the checkpoint is in its run directory."""
    names = [f"c{number}" for number in range(11)]
    folders = {part: f"{{images: {part}, labels: {part}annot}}" for part in ("train", "val")}
    overrides = ["role=baseline", "dataset=custom", f"data.classes={names}", "data.image_suffix=.png"]
    overrides += [f"data.{part}={folder}" for part, folder in folders.items()]
    overrides += ["data.ignore_labels=[11, 255]", "schedule.iters=1"]
    train(load_preset(str(tiny), overrides=overrides), tmp_path, "cpu", Cluster())
    student = tmp_path / "baseline" / "student.pth"
    assert rmrkd("eval", student).exit_code == 0
    moved = shutil.copy(student, tmp_path / "moved.pth")
    outcome = rmrkd("eval", moved)
    assert outcome.exit_code == 2
    assert "--data-root" in outcome.hint
    assert rmrkd("eval", moved, "--data-root", camvid).exit_code == 0


def test_every_checkpoint_is_evaluated_with_one_precision(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was trained without TF32; torch's own setting returns afterwards."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    seen, evaluate = [], run.evaluate

    def watch(*given: Any, **options: Any) -> Any:
        seen.append([switch.allow_tf32 for switch in switches])
        return evaluate(*given, **options)

    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=1", "schedule.tf32=false"])
    train(preset, tmp_path, "cpu", Cluster())
    assert [switch.allow_tf32 for switch in switches] == before
    monkeypatch.setattr(run, "evaluate", watch)
    assert rmrkd("eval", tmp_path / "baseline" / "student.pth").exit_code == 0
    assert seen == [[True, True]]
    assert [switch.allow_tf32 for switch in switches] == before


def test_a_network_that_fits_its_weights_and_cannot_run_is_reported(tmp_path: Path, camvid: Path, tiny: Path) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=1"])
    train(preset, tmp_path, "cpu", Cluster())
    whole = read_checkpoint(tmp_path / "baseline" / "student.pth")
    harmed = whole.meta["config"].replace("'in_index': 3", "'in_index': 9")
    assert harmed != whole.meta["config"]
    torch.save({"meta": {**whole.meta, "config": harmed}, "state_dict": whole.state}, tmp_path / "x.pth")
    outcome = rmrkd("eval", tmp_path / "x.pth", "--data-root", camvid)
    assert outcome.exit_code == 2
    assert "cannot run" in outcome.message
