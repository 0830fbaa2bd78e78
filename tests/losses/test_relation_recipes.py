from __future__ import annotations

import pytest

from rmrkd_cli.presets.fields import AUTO
from rmrkd_cli.presets.loader import load_preset

CITY, VOC = "psp101-psp18-city", "psp101-psp18-voc12aug"


@pytest.mark.parametrize(
    ("method", "preset", "weights"),
    [
        ("skd", CITY, {"kd": 1.0, "skd": 10.0}),
        ("skd", VOC, {"kd": AUTO, "skd": AUTO}),
        ("ifvd", CITY, {"kd": 1.0, "ifvd": 20.0}),
        ("ifvd", VOC, {"kd": AUTO, "ifvd": AUTO}),
        ("cirkd", CITY, {"kd": 1.0, "cirkd": 1.0, "cirkd_memory": 0.1}),
        ("cirkd", VOC, {"kd": 1.0, "cirkd": 1.0, "cirkd_memory": 0.01}),
        ("cirkd-mini-batch", VOC, {"kd": 1.0, "cirkd": 1.0}),
        ("cirkd-memory", CITY, {"kd": 1.0, "cirkd_memory": 0.1}),
    ],
)
def test_weights_are_those_of_the_sources(method: str, preset: str, weights: dict[str, float | str]) -> None:
    losses = load_preset(preset, method=method).losses
    assert {name: spec.weight for name, spec in losses.items()} == weights
    assert {name: spec.stage for name, spec in losses.items()} == {
        name: "logits" if name == "kd" else "head" for name in weights
    }
