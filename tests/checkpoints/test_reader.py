from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rmrkd_cli.checkpoints.reader import load_state_dict_checked, read_checkpoint
from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text
from rmrkd_cli.errors import RmrkdError
from tests.helpers.cli import rmrkd

STUDENT = {"backbone.conv.weight": torch.arange(4.0).view(2, 2), "decode_head.conv_seg.weight": torch.ones(3, 2, 1, 1)}


def released(path: Path, **rest: object) -> Path:
    """A checkpoint with the key names of the released RMRKD and MGD code: student, teacher and losses together."""
    state = {f"student.{key}": value for key, value in STUDENT.items()}
    state |= {f"teacher.{key}": -value for key, value in STUDENT.items()}
    state |= {
        "distill_losses.loss_mgd.align.weight": torch.zeros(1),
        "distill_losses.loss_rmrkd.align.bias": torch.zeros(1),
    }
    torch.save({"meta": {"epoch": 1, "CLASSES": ("a", "b", "c")}, "state_dict": state, **rest}, path)
    return path


@pytest.mark.parametrize("rest", [{}, {"optimizer": {"state": {}, "param_groups": []}}])
@pytest.mark.parametrize("name", ["out.pth", "out.safetensors"])
def test_the_student_is_extracted_from_a_released_checkpoint(tmp_path: Path, rest: dict, name: str) -> None:
    outcome = rmrkd("transfer", released(tmp_path / "in.pth", **rest), tmp_path / name)
    assert outcome.exit_code == 0
    written = read_checkpoint(tmp_path / name)
    assert written.kind == "plain"
    assert list(written.meta["CLASSES"]) == ["a", "b", "c"]
    assert written.state.keys() == STUDENT.keys()
    assert all(torch.equal(written.state[key], STUDENT[key]) for key in STUDENT)


def test_a_data_parallel_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.student.{k}": v for k, v in STUDENT.items()}}, tmp_path / "in.pth")
    assert read_checkpoint(tmp_path / "in.pth").student().keys() == STUDENT.keys()


def test_numpy_scalars_are_read(tmp_path: Path) -> None:
    meta = {"mIoU": np.float64(0.5), "iter": np.int64(3)}
    torch.save({"meta": meta, "state_dict": STUDENT}, tmp_path / "in.pth")
    assert read_checkpoint(tmp_path / "in.pth").meta["mIoU"] == 0.5


@pytest.mark.parametrize("gadget", [os.system, eval, exec])
def test_a_pickle_that_would_run_code_is_rejected(tmp_path: Path, gadget: object) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return gadget, (f"touch {tmp_path / 'ran'}",)

    for number, contents in enumerate((Trap(), {"state_dict": STUDENT, "meta": Trap()})):
        torch.save(contents, tmp_path / f"{number}.pth")
        (tmp_path / f"{number}.pkl").write_bytes(pickle.dumps(contents))
        for suffix in ("pth", "pkl"):
            with pytest.raises(RmrkdError):
                read_checkpoint(tmp_path / f"{number}.{suffix}")
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file_is_rejected(tmp_path: Path) -> None:
    path = released(tmp_path / "in.pth")
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(RmrkdError, match=r"in\.pth"):
            read_checkpoint(path)


def test_mismatched_weights_are_rejected_and_their_keys_listed() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 3))
    state = dict(network.state_dict())
    load_state_dict_checked(
        network, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, "old.pth"
    )
    del state["0.bias"]
    state |= {"head.weight": torch.zeros(1), "2.weight": torch.zeros(5, 2)}
    with pytest.raises(RmrkdError) as failure:
        load_state_dict_checked(network, state, "other.pth")
    for landmark in (
        "other.pth",
        r"missing: 0.bias (1)",
        "unexpected: head.weight (1)",
        "2.weight is (5, 2), expected (3, 2)",
    ):
        assert landmark in failure.value.message
    load_state_dict_checked(
        network, {**network.state_dict(), "fc.weight": torch.zeros(1)}, "imagenet.pth", ignore=("fc.",)
    )


def test_config_text_is_parsed_as_literals() -> None:
    """As OpenMMLab's files hold it, `gpu_ids = range(0, 4)` included."""
    text = "model = dict(\n    type='EncoderDecoder', size=(1, -2), head=dict(a=[True, None, 1e-3]))\nx = {'k': 'v'}"
    assert parse_config_text("gpu_ids = range(0, 4)") == {"gpu_ids": [0, 1, 2, 3]}
    assert parse_config_text(text) == {
        "model": {"type": "EncoderDecoder", "size": (1, -2), "head": {"a": [True, None, 1e-3]}},
        "x": {"k": "v"},
    }


@pytest.mark.parametrize(
    "text",
    [
        "import os", "model = open('x')", "model = dict(**x)", "model = __import__('os').system('ls')", "model.a = 1",
        "model = [i for i in range(9)]", "model = 'a' + 'b'", "exec('1')",
        "a = range(10**9)", "a = range(x)", "model = dict(", "model = f'{x}'",
        "model = " + "[" * 5000 + "]" * 5000, "model = {**{}}", "model = -'a'", "if 1: x = 2",
    ],
)  # fmt: skip
def test_config_text_with_code_is_rejected(text: str) -> None:
    with pytest.raises(RmrkdError, match="config text"):
        parse_config_text(text)


@pytest.mark.parametrize(("form", "name"), [("safetensors", "out.pth"), ("pth", "out.safetensors")])
def test_a_file_name_that_contradicts_the_format_is_rejected(tmp_path: Path, form: str, name: str) -> None:
    outcome = rmrkd("transfer", released(tmp_path / "in.pth"), tmp_path / name, "--format", form)
    assert outcome.exit_code == 2
    assert name in outcome.message
    assert not (tmp_path / name).exists()
