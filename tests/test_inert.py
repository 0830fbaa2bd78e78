"""No file is opened because a network's config names it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.inert import without_initial_weights
from rmrkd_cli.models import build_network
from tests.commands.test_bad_input import Bomb, model


@pytest.mark.parametrize("place", [["decode_head"], ["auxiliary_head", 0]])
def test_class_weights_in_a_file_are_refused(place: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pkl").write_bytes(pickle.dumps(Bomb()))
    config = {**model(), "auxiliary_head": [model()["decode_head"]]}
    node = config
    for part in place:
        node = node[part]
    node["loss_decode"]["class_weight"] = "weights.pkl"
    with pytest.raises(RmrkdError, match="from the file `weights"):
        build_network(config, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pkl"]


def test_numbers_are_fine() -> None:
    network = build_network(model(class_weight=[1.0, 2.0]), device="cpu")
    assert network.decode_head.loss_decode.class_weight == [1.0, 2.0]


def test_initial_weights_are_left_out_and_nothing_else() -> None:
    config = model()
    named: dict[str, Any] = {**config, "pretrained": "x.pth"}
    named["backbone"] = {
        **config["backbone"],
        "pretrained": "y.pth",
        "init_cfg": {"type": "Pretrained", "checkpoint": "z"},
    }
    fine = [{"type": "Constant", "val": 1, "layer": ["Linear"]}]
    named["decode_head"] = {
        **config["decode_head"],
        "init_cfg": [{"type": "mmcv.Pretrained", "checkpoint": "z"}, *fine],
    }
    kept = {**config, "decode_head": {**config["decode_head"], "init_cfg": fine}}
    assert without_initial_weights(named) == kept
