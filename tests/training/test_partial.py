"""Weights that do not cover their network: refused with the keys in groups, or loaded as far as they fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd


@pytest.fixture(scope="module")
def half(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student without its last layer, and with one that it does not know."""
    work = tmp_path_factory.mktemp("half")
    train(load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=1"]), work, "cpu", Cluster())
    whole = read_checkpoint(work / "baseline" / "student.pth")
    state = {key: value for key, value in whole.state.items() if not key.startswith("auxiliary_head.")}
    state["neck.weight"] = torch.ones(1)
    torch.save({"meta": whole.meta, "state_dict": state}, work / "half.pth")
    return work / "half.pth"


@pytest.mark.parametrize("command", ["train", "eval"])
def test_it_is_refused_with_the_keys_in_groups(
    command: str, half: Path, tiny: Path, tmp_path: Path, camvid: Path
) -> None:
    outcome = {
        "train": lambda: rmrkd("train", "--preset", tiny, "--role", "baseline", "--student-checkpoint", half,
                               "--work-dir", tmp_path / "work"),
        "eval": lambda: rmrkd("eval", half, "--data-root", camvid),
    }[command]()  # fmt: skip
    assert outcome.exit_code == 2
    assert "missing: auxiliary_head.convs (" in outcome.message
    assert "unexpected: neck.weight (1)" in outcome.message
    assert "--allow-partial" in outcome.hint
    assert not (tmp_path / "work").exists()


def test_what_fits_is_loaded_and_the_rest_said(
    half: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "baseline", "--student-checkpoint", half, "--allow-partial",
        "--work-dir", tmp_path, "--max-iters", 1, "--set", "schedule.lr=1e-9", "--set", "schedule.min_lr=0",
    )  # fmt: skip
    assert outcome.exit_code == 0
    assert "allow_partial: true" in (tmp_path / "baseline" / "config.yaml").read_text()
    ours, theirs = (read_checkpoint(path).state for path in (tmp_path / "baseline" / "student.pth", half))
    assert torch.allclose(ours["decode_head.conv_seg.weight"], theirs["decode_head.conv_seg.weight"], atol=1e-6)
    assert "auxiliary_head.conv_seg.weight" in ours


def test_a_partial_result_says_so(half: Path, camvid: Path) -> None:
    outcome = rmrkd("eval", half, "--data-root", camvid, "--allow-partial", "--json", "-")
    assert outcome.exit_code == 0
    assert "missing: auxiliary_head" in json.loads(outcome.stdout)["partial"]


def test_a_file_of_which_nothing_fits_is_refused_all_the_same(tiny: Path, tmp_path: Path) -> None:
    torch.save({"decode_head.x": torch.ones(1)}, tmp_path / "x.pth")
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "baseline", "--student-checkpoint", tmp_path / "x.pth", "--allow-partial",
        "--work-dir", tmp_path / "work",
    )  # fmt: skip
    assert outcome.exit_code == 2
    assert "does not fit" in outcome.message
    assert not (tmp_path / "work").exists()
