"""Checkpoints of mmsegmentation 1.x: their weights, their network, how it normalizes images, and what is left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.normalization import IMAGENET, Normalization
from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.networks.mmseg_versions import find_normalization, model_of
from rmrkd_cli.presets.loader import load_preset
from tests.helpers.cli import rmrkd
from tests.helpers.mmengine import config_text, mmengine_modules, write_checkpoint

HALF = "mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]"
CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


@pytest.fixture(scope="module")
def network(tiny: Path) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(network_config(load_preset(str(tiny)).student, 11), device="cpu").eval()
    nn.init.normal_(network.decode_head.conv_seg.weight, std=0.3)
    return network


@pytest.fixture(scope="module")
def files(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write training files of mmsegmentation 1.x that differ in their config."""
    folder = tmp_path_factory.mktemp("mmseg1")
    texts = {
        "plain": config_text(),
        "half": config_text(HALF),
        "bgr": config_text(rgb=False),
        "lazy": config_text(scope="mmseg.models."),
    }
    with mmengine_modules():
        for name, text in texts.items():
            write_checkpoint(network, folder / f"{name}.pth", text, CAMVID)
    assert "mmengine" not in sys.modules
    return folder


@pytest.mark.parametrize("name", ["plain", "half", "bgr", "lazy"])
def test_the_network_is_that_of_the_config_and_gets_its_images(files: Path, network: nn.Module, name: str) -> None:
    loaded = load_checkpoint_network(str(files / f"{name}.pth"), None, "cpu").network.eval()
    assert loaded.state_dict().keys() == network.state_dict().keys()
    pixels = torch.randint(0, 256, (1, 3, 64, 64)).float()  # RGB
    expected = {
        "half": (pixels - 127.5) / 127.5,
        "bgr": normalize(pixels.flip(1), IMAGENET),
    }.get(name, normalize(pixels, IMAGENET))
    with torch.no_grad():
        ours = adapter_of(loaded).logits(loaded, normalize(pixels, IMAGENET))
        theirs = network.decode_head(network.extract_feat(expected))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def normalize(pixels: torch.Tensor, by: Normalization) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (by.mean, by.std))
    return (pixels - mean) / std


def test_metadata_is_in_the_form_of_mmsegmentation_0(files: Path) -> None:
    checkpoint = read_checkpoint(files / "plain.pth")
    assert checkpoint.kind == "plain"
    assert list(checkpoint.meta["CLASSES"]) == CAMVID
    assert checkpoint.meta["config"] == checkpoint.meta["cfg"] == config_text()
    assert not [key for key in checkpoint.state if key.startswith("data_preprocessor")]


def test_all_commands_take_the_file_alone(files: Path, camvid: Path, tiny: Path, tmp_path: Path) -> None:
    where = ("--dataset", "camvid", "--data-root", camvid, "--device", "cpu", "--max-images", 1, "--workers", 0)
    half, plain = files / "half.pth", files / "plain.pth"
    matrices = [json.loads(rmrkd("eval", file, *where, "--json", "-").stdout)["matrix"] for file in (plain, half)]
    assert matrices[0] != matrices[1]  # the same weights with other images
    predicted = rmrkd("predict", half, camvid / "val" / "0.png", "--out", tmp_path / "masks", "--device", "cpu")
    assert predicted.exit_code == 0, predicted.message
    written = rmrkd("transfer", half, tmp_path / "student.pth", "--config", tmp_path / "net.py")
    assert written.exit_code == 0, written.message
    contents = torch.load(tmp_path / "student.pth", weights_only=True)  # without mmengine's objects
    assert set(contents) == {"meta", "state_dict"}
    again = json.loads(rmrkd("eval", tmp_path / "student.pth", *where, "--json", "-").stdout)
    assert again["matrix"] == matrices[1]
    preset = load_preset(str(tiny), overrides=[f"student={{config: {tmp_path / 'net.py'}, init: scratch}}"])
    built = build_network(network_config(preset.student, 11), device="cpu")
    assert adapter_of(built).normalization == Normalization([127.5] * 3, [127.5] * 3, True)
    assert built.state_dict().keys() == contents["state_dict"].keys()


def test_such_a_file_is_a_teacher(files: Path, tiny: Path, tmp_path: Path) -> None:
    student = load_preset(str(tiny)).student.model_dump(mode="json", exclude_none=True)
    options = ["--role", "distill", "--teacher-checkpoint", files / "plain.pth", "--max-iters", 1, "--device", "cpu"]
    settings = ["--set", f"teacher={json.dumps(student)}", "--work-dir", tmp_path]
    outcome = rmrkd("train", "--preset", tiny, *options, *settings)
    assert outcome.exit_code == 0, outcome.message
    assert (tmp_path / "distill" / "student.pth").is_file()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model": {"data_preprocessor": {"type": "SegDataPreProcessor"}}}, ([0.0] * 3, [1.0] * 3, False)),
        ({"model": {"data_preprocessor": {"mean": [1, 2, 3], "std": [4, 5, 6], "type": "SegDataPreProcessor"}}},
         ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], False)),
        ({"model": {}, "data": {"test": {"pipeline": [{"transforms": [
            {"type": "Normalize", "mean": [1, 2, 3], "std": [4, 5, 6], "to_rgb": False}]}]}}},
         ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], False)),
        ({"img_norm_cfg": {"mean": [1, 2, 3], "std": [4, 5, 6], "to_rgb": True}},
         ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], True)),
        ({"model": {"data_preprocessor": {"mean": [1, 2, 3], "std": [4, 0, 6]}}}, None),
        ({"model": {"data_preprocessor": {"mean": [1], "std": [4]}}}, None),
        ({"model": {}}, None),
    ],
)  # fmt: skip
def test_normalization_of_a_config(values: dict[str, object], expected: tuple[object, ...] | None) -> None:
    assert find_normalization(values) == (None if expected is None else Normalization(*expected))  # type: ignore[arg-type]


def test_imagenet_weights_that_1_x_names_in_the_backbone_are_known() -> None:
    init = {"type": "Pretrained", "checkpoint": "open-mmlab://resnet18_v1c"}
    model = model_of({"model": {"type": "EncoderDecoder", "pretrained": None, "backbone": {"init_cfg": init}}})
    assert model is not None
    assert model["pretrained"] == "open-mmlab://resnet18_v1c"
    local = {"type": "Pretrained", "checkpoint": "/home/me/backbone.pth"}
    model = model_of({"model": {"type": "EncoderDecoder", "backbone": {"init_cfg": local}}})
    assert model is not None
    assert "pretrained" not in model
