"""Networks of segmentation_models_pytorch: what they compute, and which descriptions are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rmrkd_cli.checkpoints.reader import key_mismatch
from rmrkd_cli.data.normalization import IMAGENET
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks import libraries
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import measure_shapes, segment
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.presets.network_schema import Network

smp: Any = pytest.importorskip("segmentation_models_pytorch")

ENCODER = "tu-mobilenetv3_small_050"
ARCHITECTURES = ("Unet", "FPN", "PSPNet", "DeepLabV3Plus", "PAN", "Segformer")


def spec(name: str = "Unet", **options: Any) -> Network:
    return Network(library="smp", name=name, options={"encoder_name": ENCODER, **options})


def build(name: str = "Unet", classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return libraries.build_network(libraries.network_config(spec(name), classes), device="cpu").eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_logits_and_maps_are_those_of_the_library(name: str) -> None:
    network, images = build(name), torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(segment(network, images), network(images), rtol=1e-4, atol=1e-5)
    maps, features = adapter_of(network).maps(network, images), network.encoder(images)  # type: ignore[operator]
    stages = [key for key in maps if isinstance(key, int)]
    assert stages == [1, 2, 3, 4][: len(features) - 2]
    for key in stages:  # the decoder has not changed them in place
        torch.testing.assert_close(maps[key], features[key + 1], rtol=0, atol=0)
    torch.testing.assert_close(maps["head"], network.decoder(features), rtol=0, atol=0)  # type: ignore[operator]


@torch.no_grad()
def test_images_of_any_size_are_padded_and_the_rest_is_cropped() -> None:
    network, images = build("FPN"), torch.randn(1, 3, 75, 100, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, (0, 28, 0, 21))
    with pytest.raises(RuntimeError, match="divisible"):
        network(images)
    torch.testing.assert_close(segment(network, images), network(padded)[:, :, :75, :100], rtol=1e-4, atol=1e-5)
    maps = adapter_of(network).maps(network, images)
    assert {key: tuple(value.shape[2:]) for key, value in maps.items()} == {
        1: (19, 25), 2: (10, 13), 3: (5, 7), 4: (3, 4), "head": (19, 25), "logits": (75, 100)
    }  # fmt: skip


def test_an_outline_has_the_shapes_of_the_network_without_values() -> None:
    outline = libraries.build_outline(libraries.network_config(spec("DeepLabV3Plus"), 7))
    with on_meta():
        shapes = measure_shapes(outline, (64, 64))
    assert shapes.channels == {1: 8, 2: 16, 3: 24, 4: 288, "head": 256, "logits": 7}
    assert shapes.strides == {1: 4, 2: 8, 3: 16, 4: 16, "head": 4, "logits": 4}
    assert all(parameter.is_meta for parameter in outline.parameters())


def test_the_description_has_every_option_and_builds_the_same_network() -> None:
    config = libraries.network_config(spec("Unet", decoder_channels=[32, 16, 16, 8, 8]), 5)
    assert config["options"]["encoder_depth"] == 5
    assert config["options"]["decoder_channels"] == [32, 16, 16, 8, 8]
    assert "encoder_weights" not in config["options"]
    assert "normalization" not in config
    torch.manual_seed(0)
    ours = libraries.build_network(config, device="cpu")
    theirs = smp.Unet(ENCODER, encoder_weights=None, classes=5, decoder_channels=(32, 16, 16, 8, 8))
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("encoder", "mean"),
    [("resnet18", 123.675), ("xception", 127.5), ("dpn68", 124.0), ("timm-tf_efficientnet_lite0", 127.5),
     ("tu-tf_efficientnet_lite0", 127.5), ("tu-resnet18", 123.675)],
)  # fmt: skip
def test_images_are_normalized_as_the_encoder_expects(encoder: str, mean: float) -> None:
    config = libraries.network_config(Network(library="smp", name="FPN", options={"encoder_name": encoder}), 2)
    assert config.get("normalization", IMAGENET._asdict())["mean"][0] == mean


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "UNet"}, r"smp has no architecture `UNet`; did you mean `Unet`\?"),
        ({"options": {"encoder_name": "resnet8"}}, r"smp has no encoder `resnet8`; did you mean `resnet18`\?"),
        ({"options": {"encoder_name": "tu-resnet8"}}, "timm has no model `resnet8`"),
        ({"options": {"encoder_name": "tu-hf-hub:someone/model"}}, "timm has no model `hf-hub:someone/model`"),
        ({"options": {"encoder_name": "tu-local-dir:/etc"}}, "timm has no model `local-dir:/etc`"),
        ({"options": {"encoder_weights": "imagenet"}}, "has no option `encoder_weights`: `weights` names them"),
        ({"options": {"aux_params": {"classes": 2}}}, "a classification head has no use in segmentation"),
        ({"options": {"cache_dir": "/etc"}}, "has no option `cache_dir`"),
        ({"options": {"decoder_chanels": [8]}}, r"did you mean `decoder_channels`\?"),
        ({"options": {"decoder_channels": [100_000, 100_000, 8, 8, 8]}}, "more than|allocate memory"),
        ({"num_classes": 10**6}, "num_classes"),
        ({"maps": {"stage4": "encoder.nowhere"}}, "has no module `encoder.nowhere`"),
        ({"normalization": {"mean": [1, 2], "std": [1, 2, 3], "rgb": True}}, "normalization needs three"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_refused(changed: dict[str, Any], message: str) -> None:
    config = {"library": "smp", "name": "Unet", "options": {"encoder_name": "resnet18"}, "num_classes": 5, **changed}
    with pytest.raises(RmrkdError, match=message):
        libraries.build_network(config, device="cpu")


def test_a_description_of_a_larger_network_than_its_weights_is_refused() -> None:
    config = libraries.network_config(spec(), 5)
    with pytest.raises(RmrkdError, match="more than 1,000 parameters"):
        libraries.build_network(config, device="cpu", max_parameters=1000)


def test_weights_of_an_encoder_are_found_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants
    from safetensors.torch import save_file

    from rmrkd_cli.networks.weights import fetch_weights, load_weights

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    named = Network(library="smp", name="FPN", options={"encoder_name": "resnet18"}, weights="imagenet")
    published = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    source = libraries.start_source(named, "student")
    assert source is not None
    assert source.hub == f"smp-hub/resnet18.imagenet@{published['revision']}"
    with pytest.raises(RmrkdError, match=r"`smp-hub/resnet18.imagenet@.*` cannot be downloaded: .* its cache has no"):
        fetch_weights(source, "student")
    file = tmp_path / "models--smp-hub--resnet18.imagenet/snapshots" / published["revision"] / "model.safetensors"
    file.parent.mkdir(parents=True)
    torch.manual_seed(1)
    weights = smp.encoders.get_encoder("resnet18").state_dict()
    save_file(weights, file)
    network = libraries.build_network(libraries.network_config(named, 3), device="cpu")
    load_weights(network, source, role="student", may_be_backbone=True)
    torch.testing.assert_close(network.encoder.conv1.weight, weights["conv1.weight"])  # type: ignore[union-attr]
    with pytest.raises(RmrkdError, match=r"no weights `imagenette` for `resnet18`; did you mean `imagenet`\?"):
        libraries.start_source(named.model_copy(update={"weights": "imagenette"}), "student")


@pytest.mark.parametrize(
    ("encoder", "other", "fits"),
    [
        ("resnet18", "resnet18", True),
        ("resnet18", "resnet34", False),
        ("tu-resnet18", "resnet34", False),
        ("tu-efficientnet_b0", "efficientnet_b0", True),
        ("tu-efficientnet_b0", "efficientnet_b1", False),
        ("tu-convnext_atto", "convnext_nano", False),
    ],
)
def test_weights_of_another_encoder_are_refused(encoder: str, other: str, fits: bool) -> None:
    """Layers between those of the encoder show that it is a deeper one; its classifier is left out."""
    import timm

    config = libraries.network_config(Network(library="smp", name="FPN", options={"encoder_name": encoder}), 3)
    network = libraries.build_outline(config)
    with on_meta():
        file = timm.create_model(other, pretrained=False).state_dict()
    own = network.state_dict()
    fitted = adapter_of(network).fit_weights(own, file, is_student=True)
    encoder_keys = {key: value for key, value in own.items() if key.startswith(fitted.prefix)}
    assert ("unexpected" not in key_mismatch(encoder_keys, fitted.state, "file", fitted.ignore)) == fits


def test_weights_of_timm_are_those_of_the_encoder() -> None:
    import timm

    network = build("FPN")
    own, file = network.state_dict(), timm.create_model(ENCODER.removeprefix("tu-"), pretrained=False).state_dict()
    fitted = adapter_of(network).fit_weights(own, file, is_student=True)
    assert set(fitted.state) == {key for key in own if key.startswith("encoder.")}
    assert all(fitted.state[key].shape == own[key].shape for key in fitted.state)
