"""Which files `transfer` writes, and what commands say of a teacher alone, a folder, and an empty file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmrkd_cli.checkpoints.mismatch import mismatch_error
from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.networks.weights import check_weights
from rmrkd_cli.presets.network_schema import CheckpointSource
from tests.checkpoints.test_neighbours import NETWORK, under
from tests.helpers.cli import rmrkd, run_main
from tests.helpers.mmengine import HistoryBuffer, mmengine_modules


@pytest.mark.parametrize(
    ("contents", "left_out"),
    [
        ({"message_hub": {"log_scalars": {"loss": HistoryBuffer([0.5])}}, "optimizer": {"state": {}}}, "`message_hub`"),
        ({"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}}, "`optimizer`"),
        ({"meta": {"args": argparse.Namespace(lr=0.1), "miou": np.float64(0.5)}}, "objects of other libraries"),
        ({"meta": {"args": [1, argparse.Namespace()]}, "epoch": 3}, "`epoch`"),
    ],
)
def test_a_plain_file_with_more_is_written_without_it(contents: Any, left_out: str, tmp_path: Path) -> None:
    """The result opens with `weights_only=True` and nothing else, as other tools open it."""
    with mmengine_modules():
        torch.save({"state_dict": NETWORK, **contents}, tmp_path / "in.pth")
    code, out, err = run_main("transfer", str(tmp_path / "in.pth"), str(tmp_path / "out.pth"))
    assert (code, left_out in err) == (0, True), err
    assert "4 tensors" in out
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(written) == {"meta", "state_dict"}
    assert all(torch.equal(written["state_dict"][key], NETWORK[key]) for key in NETWORK)
    expected = {"args": [1]} if "epoch" in contents else {"miou": 0.5} if "meta" in contents else {}
    assert written["meta"] == {**expected, "kind": "rmrkd-student"}
    again = rmrkd("transfer", tmp_path / "out.pth", tmp_path / "again.pth")
    assert (again.exit_code, "already a plain checkpoint" in again.message) == (2, True)


def test_a_bare_file_with_more_is_written_without_it(tmp_path: Path) -> None:
    torch.save({**NETWORK, "args": argparse.Namespace(lr=0.1)}, tmp_path / "in.pth")
    assert rmrkd("transfer", tmp_path / "in.pth", tmp_path / "out.pth").exit_code == 0
    assert torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"].keys() == NETWORK.keys()


class Network(torch.nn.Module):
    """Has the names and shapes of `NETWORK`."""

    extract_feat = decode_head = None

    def state_dict(self, *_: object, **__: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return NETWORK


@pytest.mark.parametrize("prefix", ["teacher.", "module.teacher.", "distiller.teacher.module.", "teacher._orig_mod."])
def test_a_teacher_alone_is_a_network(prefix: str, tmp_path: Path) -> None:
    torch.save({"state_dict": under(prefix)}, tmp_path / "in.pth")
    found = read_checkpoint(tmp_path / "in.pth")
    assert (found.kind, found.student().keys()) == ("wrapped", NETWORK.keys())
    assert f"`{prefix.removesuffix('_orig_mod.')}`" in found.note or prefix in found.note
    code, _, err = run_main("transfer", str(tmp_path / "in.pth"), str(tmp_path / "out.pth"))
    assert (code, "teacher." in err) == (0, True)
    assert read_checkpoint(tmp_path / "out.pth").state.keys() == NETWORK.keys()
    check_weights(Network(), CheckpointSource(path=str(tmp_path / "in.pth")), role="student")


@pytest.mark.parametrize("container", ["state_dict", "model"])
def test_a_distiller_without_a_student_names_the_line_that_takes_its_teacher(container: str, tmp_path: Path) -> None:
    state = under("module.teacher.") | {"module.distill_losses.align.weight": torch.ones(1)}
    torch.save({container: state}, tmp_path / "in.pth")
    failed = [
        rmrkd("eval", tmp_path / "in.pth", "--dataset", "demo"),
        rmrkd("transfer", tmp_path / "in.pth", tmp_path / "out.pth"),
        rmrkd(
            "train", "--preset", "demo", "--role", "baseline", "--student-checkpoint", tmp_path / "in.pth", "--dry-run"
        ),
    ]
    for number, outcome in enumerate(failed):
        line = (outcome.hint or outcome.stdout).partition("of its own: ")[2].splitlines()[0]
        line = line.replace("weights.pth", str(tmp_path / f"{number}.pth"))
        exec(line, {"torch": torch})
        assert read_checkpoint(tmp_path / f"{number}.pth").state.keys() == NETWORK.keys()
        assert "first key is ``" not in outcome.message + outcome.hint + outcome.stdout


def test_a_file_that_shares_no_tensor_shows_a_key() -> None:
    error = mismatch_error("no match", NETWORK, {"a.b": torch.ones(1)}, "x.pth", hint="give another file")
    assert "its first key is `a.b`" in error.hint


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_empty_file_is_called_empty(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"x{suffix}"
    file.touch()
    outcome = rmrkd("eval", file)
    assert outcome.message == f"`{file}` is not a readable checkpoint: it is empty (0 bytes)"
    assert "download it again" in outcome.hint


@pytest.mark.parametrize(("contents", "held"), [({"a": 1}, "only the entries `a`"), ({}, "it is an empty mapping")])
def test_a_file_without_tensors_names_the_line_that_writes_them(contents: dict, held: str, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "x.pth")
    outcome = rmrkd("eval", tmp_path / "x.pth")
    assert held in outcome.message
    assert 'torch.save({"state_dict": model.state_dict()}, "weights.pth")' in outcome.hint


def test_a_folder_in_place_of_a_file_names_its_files(tmp_path: Path) -> None:
    run = tmp_path / "work" / "baseline"
    run.mkdir(parents=True)
    assert rmrkd("compare", run, run).message == f"`{run}` is a folder, not a file"
    for name in ("best.pth", "result.json", "log.jsonl"):
        (run / name).touch()
    for folder in (run, tmp_path / "work"):
        outcome = rmrkd("compare", folder, folder)
        assert outcome.message == f"`{folder}` is a folder, not a file"
        assert outcome.hint.startswith(f"name the file: {run / 'result.json'}")
        outcome = rmrkd("eval", folder)
        assert outcome.message == f"checkpoint `{folder}` is a folder, not a file"
        assert outcome.hint == f"name the file: {run / 'best.pth'}"
    assert rmrkd("compare", run, run).hint == f"name the file: {run / 'result.json'} or {run / 'best.pth'}"
    (tmp_path / "work" / "mine.safetensors").touch()
    (run / "best.pth").unlink()
    assert rmrkd("eval", tmp_path / "work").hint == f"name the file: {tmp_path / 'work' / 'mine.safetensors'}"
