"""`rmrkd networks`: the feature maps of a network, by the names of its modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchvision.models import segmentation

from rmrkd_cli.presets import user_code
from tests.helpers.cli import rmrkd
from tests.helpers.network_files import write_onnx


def listed(*words: object) -> list[dict[str, Any]]:
    outcome = rmrkd("networks", *words, "--json", "-")
    assert outcome.exit_code == 0, outcome.message
    contents = json.loads(outcome.stdout)
    return contents if isinstance(contents, list) else [contents]


def places(network: dict[str, Any]) -> dict[str, tuple[str, int, int]]:
    return {each["map"]: (each["module"], each["channels"], each["stride"]) for each in network["maps"]}


def test_the_maps_of_a_network_are_named_by_their_modules() -> None:
    (network,) = listed("deeplabv3_mobilenet_v3_large")
    assert places(network) == {
        "stage1": ("backbone.3", 24, 4), "stage2": ("backbone.6", 40, 8), "stage3": ("backbone.12", 112, 16),
        "stage4": ("backbone.16", 960, 16), "head": ("classifier.3", 256, 16), "logits": ("classifier", 19, 16),
    }  # fmt: skip
    modules = {each["module"]: each for each in network["modules"]}
    assert modules["backbone.10"] == {
        "module": "backbone.10", "class": "InvertedResidual", "channels": 80, "stride": 16
    }  # fmt: skip
    original = segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19)
    assert network["parameters"] == sum(each.numel() for each in original.parameters())


def test_a_preset_gives_teacher_and_student(tiny: Path) -> None:
    teacher, student = listed("--preset", tiny)
    assert [teacher["network"], student["network"]] == ["teacher", "student"]
    assert places(student)["stage4"][0] == "backbone.layer4"
    assert {"head", "logits"} <= places(teacher).keys()
    printed = rmrkd("networks", "--preset", tiny, "--modules").stdout
    assert "Teacher: " in printed
    assert "backbone.layer4.0.conv1" in printed


def test_a_teacher_that_is_a_file_has_logits_and_no_other_map(tiny: Path, tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "teacher.onnx", channels=11)
    contents = yaml.safe_load(tiny.read_text())
    contents["teacher"] = {"library": "onnx", "file": str(file)}
    preset = tmp_path / "preset.yaml"
    preset.write_text(yaml.safe_dump({**contents, "method": "kd", "losses": {"kd": {"type": "kd"}}}))
    teacher, student = listed("--preset", preset)
    assert (teacher["library"], teacher["name"], teacher["parameters"]) == ("onnx", str(file), 3 * 11)
    assert places(teacher) == {"logits": (None, 11, 1)}
    assert "stage4" in places(student)
    assert "Teacher: onnx, teacher.onnx" in rmrkd("networks", "--preset", preset).stdout
    file.unlink()
    assert [network["network"] for network in listed("--preset", preset)] == ["student"]
    assert "is a file, which gives logits" in rmrkd("networks", file).message


def test_options_change_the_network() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    (network,) = listed("Unet", "--option", "encoder_name=tu-mobilenetv3_small_050")
    assert places(network)["stage4"] == ("encoder.model.blocks.5", 288, 32)  # not an identity of the decoder
    (network,) = listed("FPN", "--option", "encoder_name=tu-mobilenetv3_small_050", "--option", "encoder_depth=4")
    assert places(network) == {
        "stage1": ("encoder.model.blocks.0", 8, 4), "stage2": ("encoder.model.blocks.1", 16, 8),
        "stage3": ("encoder.model.blocks.3", 24, 16), "head": ("decoder", 128, 2),
        "logits": ("segmentation_head.0", 19, 2),
    }  # fmt: skip


def test_a_file_of_the_user_runs_only_if_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\ndef build(num_classes):\n    return nn.Sequential(nn.Conv2d(3, num_classes, 1))\n"
    )
    outcome = rmrkd("networks", f"{file}:build")
    assert (outcome.exit_code, outcome.hint) == (2, f"check the file, then add --code {file}")
    (network,) = listed(f"{file}:build", "--code", file)
    assert places(network) == {"logits": ("0", 19, 1)}
    user_code.allow_files([])


def test_names_are_listed_and_wrong_ones_are_explained() -> None:
    names = json.loads(rmrkd("networks", "--json", "-").stdout)["libraries"]
    assert "lraspp_mobilenet_v3_large" in names["torchvision"]
    assert "Unet" in names["smp"]
    printed = rmrkd("networks").stdout
    assert "FILE.py:function" in printed
    for name in ("FILE.onnx", "FILE.pt"):
        assert f"{name}, as the teacher only: a file gives logits, and cannot be trained" in printed
    outcome = rmrkd("networks", "lraspp_mobilenet_v3")
    assert (outcome.exit_code, outcome.message) == (
        2, "no library has a network `lraspp_mobilenet_v3`; did you mean `lraspp_mobilenet_v3_large`?"
    )  # fmt: skip
    assert "must be KEY=VALUE" in rmrkd("networks", "Unet", "--option", "encoder_name").message
    assert "give one of them" in rmrkd("networks", "Unet", "--preset", "demo").hint
