from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rmrkd_cli.commands.train import train
from rmrkd_cli.engine.launch import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets import load_preset
from tests.cli import rmrkd
from tests.engine import gradients

ROOT = Path(__file__).parents[2]


def test_two_workers_of_two_images_have_the_gradients_of_one_with_four(tiny: Path, tmp_path: Path) -> None:
    gradients.main(str(tiny), str(tmp_path / "one.pt"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launcher, "-m", "tests.engine.gradients", str(tiny), str(tmp_path / "two.pt")],
        check=True, cwd=ROOT, capture_output=True,
    )  # fmt: skip
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name] is not None, f"{name} is never used"
        difference = (one[name].double() - two[name].double()).norm() / one[name].double().norm().clamp_min(1e-12)
        assert difference < 1e-5, name


def test_training_and_evaluation_by_two_workers(tiny: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=2"])
    record = train(preset, tmp_path, "cpu", Cluster(workers=2))[0]
    assert record["training"]["workers"] == 2
    student = tmp_path / "baseline" / "student.pth"
    outcome = rmrkd("eval", student, "--gpus", 2, "--device", "cpu", "--max-images", 3, "--json", "-")
    alone = rmrkd("eval", student, "--device", "cpu", "--max-images", 3, "--json", "-")
    assert json.loads(outcome.stdout)["matrix"] == json.loads(alone.stdout)["matrix"]
    student.unlink()
    with pytest.raises(RmrkdError, match=r"trained by 2 worker\(s\)"):
        train(preset, tmp_path, "cpu", Cluster(), resume=True)


def test_an_error_in_a_worker_is_told_once_in_its_own_words(tiny: Path, camvid: Path, tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(camvid, tmp_path / "broken")
    for label in (broken / "trainannot").iterdir():
        label.write_bytes(b"no picture")
    preset = load_preset(str(tiny), overrides=["role=baseline", f"data.root={broken}"])
    with pytest.raises(RmrkdError, match="cannot be read as a label map") as failure:
        train(preset, tmp_path / "work", "cpu", Cluster(workers=2))
    assert failure.value.exit_code == 1
