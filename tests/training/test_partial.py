"""Weights that do not match their network: rejected with the keys listed, or loaded as far as they match."""

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
def partial(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a student checkpoint without its auxiliary head, and with an unknown layer."""
    work = tmp_path_factory.mktemp("partial")
    train(load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=1"]), work, "cpu", Cluster())
    complete = read_checkpoint(work / "baseline" / "student.pth")
    state = {key: value for key, value in complete.state.items() if not key.startswith("auxiliary_head.")}
    state["neck.weight"] = torch.ones(1)
    torch.save({"meta": complete.meta, "state_dict": state}, work / "partial.pth")
    return work / "partial.pth"


@pytest.mark.parametrize("command", ["train", "eval"])
def test_it_is_rejected_with_missing_and_unexpected_keys(
    command: str, partial: Path, tiny: Path, tmp_path: Path, camvid: Path
) -> None:
    outcome = {
        "train": lambda: rmrkd("train", "--preset", tiny, "--role", "baseline", "--student-checkpoint", partial,
                               "--work-dir", tmp_path / "work"),
        "eval": lambda: rmrkd("eval", partial, "--data-root", camvid),
    }[command]()  # fmt: skip
    assert outcome.exit_code == 2
    assert "missing: auxiliary_head.convs (" in outcome.message
    assert "unexpected: neck.weight (1)" in outcome.message
    assert "--allow-partial" in outcome.hint
    assert not (tmp_path / "work").exists()


def test_matching_tensors_are_loaded(
    partial: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "baseline", "--student-checkpoint", partial, "--allow-partial",
        "--work-dir", tmp_path, "--max-iters", 1, "--set", "schedule.lr=1e-9", "--set", "schedule.min_lr=0",
    )  # fmt: skip
    assert outcome.exit_code == 0
    assert "allow_partial: true" in (tmp_path / "baseline" / "config.yaml").read_text()
    trained, given = (read_checkpoint(path).state for path in (tmp_path / "baseline" / "student.pth", partial))
    assert torch.allclose(trained["decode_head.conv_seg.weight"], given["decode_head.conv_seg.weight"], atol=1e-6)
    assert "auxiliary_head.conv_seg.weight" in trained


def test_a_result_of_partial_weights_says_so(partial: Path, camvid: Path) -> None:
    outcome = rmrkd("eval", partial, "--data-root", camvid, "--allow-partial", "--json", "-")
    assert outcome.exit_code == 0
    assert "missing: auxiliary_head" in json.loads(outcome.stdout)["partial"]


def test_a_file_without_any_matching_tensor_is_rejected(tiny: Path, tmp_path: Path) -> None:
    torch.save({"decode_head.x": torch.ones(1)}, tmp_path / "x.pth")
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "baseline", "--student-checkpoint", tmp_path / "x.pth", "--allow-partial",
        "--work-dir", tmp_path / "work",
    )  # fmt: skip
    assert outcome.exit_code == 2
    assert "does not match the network" in outcome.message
    assert not (tmp_path / "work").exists()
