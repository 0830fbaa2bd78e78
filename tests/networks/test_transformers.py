"""SegFormer of transformers: what it computes, its published files, and which descriptions are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks import libraries
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import measure_shapes, segment
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.networks.weights import load_weights
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.network_schema import CheckpointSource, Network

transformers: Any = pytest.importorskip("transformers")

CLASS = "SegformerForSemanticSegmentation"
TINY = {
    "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 1, 2],
    "decoder_hidden_size": 16,
}  # fmt: skip


def spec(**keys: Any) -> Network:
    return Network(library="transformers", name=CLASS, **{"options": TINY, **keys})


def build(classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return libraries.build_network(libraries.network_config(spec(), classes), device="cpu").eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it, and as it is on the hub: with the names of published files."""
    folder = tmp_path_factory.mktemp("segformer")
    torch.manual_seed(1)
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**TINY, num_labels=5))
    model.save_pretrained(folder)
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@torch.no_grad()
def test_logits_and_maps_are_those_of_the_library() -> None:
    network, images = build(), torch.randn(2, 3, 75, 100, generator=torch.Generator().manual_seed(0))
    expected = network(images, output_hidden_states=True)
    maps = adapter_of(network).maps(network, images)
    torch.testing.assert_close(maps["logits"], expected.logits, rtol=0, atol=0)
    for key, hidden in enumerate(expected.hidden_states, 1):
        torch.testing.assert_close(maps[key], hidden, rtol=0, atol=0)
    torch.testing.assert_close(network.decode_head.classifier(maps["head"]), expected.logits)  # type: ignore[union-attr, operator]
    assert segment(network, images).shape == (2, 5, 75, 100)


def test_an_outline_has_the_shapes_of_the_network_without_values() -> None:
    outline = libraries.build_outline(libraries.network_config(spec(), 7))
    with on_meta():
        shapes = measure_shapes(outline, (64, 64))
    assert shapes.channels == {1: 8, 2: 16, 3: 24, 4: 32, "head": 16, "logits": 7}
    assert shapes.strides == {1: 4, 2: 8, 3: 16, 4: 32, "head": 4, "logits": 4}


@torch.no_grad()
def test_a_published_folder_gives_options_weights_and_normalization(published: Path) -> None:
    network_spec = spec(options={}, weights=str(published))
    config = libraries.network_config(network_spec, 5)
    assert {key: config["options"][key] for key in TINY} == TINY
    assert config["normalization"] == {"mean": [127.5] * 3, "std": [127.5] * 3, "rgb": True}
    source = libraries.start_source(network_spec, "teacher")
    assert source == CheckpointSource(path=str(published / "model.safetensors"))
    network = libraries.build_network(config, device="cpu").eval()
    load_weights(network, source, role="teacher")
    theirs = transformers.SegformerForSemanticSegmentation.from_pretrained(published).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]]).view(2, 1, 3, 1, 1)
    logits = adapter_of(network).logits(network, (255 * images - mean) / std)
    torch.testing.assert_close(logits, theirs((images - 0.5) / 0.5).logits, rtol=1e-4, atol=1e-5)


def test_weights_of_a_classification_network_are_those_of_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = transformers.SegformerForImageClassification(transformers.SegformerConfig(**TINY, num_labels=10))
    model.save_pretrained(tmp_path)
    network_spec, network = spec(weights=str(tmp_path)), build()
    assert not libraries._module("transformers").is_whole(network_spec)
    source = libraries.start_source(network_spec, "student")
    assert source is not None
    load_weights(network, source, role="student", may_be_backbone=True)
    ours, theirs = network.state_dict(), model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key.startswith("segformer."))
    with pytest.raises(RmrkdError, match="missing: decode_head"):
        load_weights(network, source, role="teacher")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "SegformerForImageClassification"}, "has no class `SegformerForImageClassification`"),
        ({"options": {"depth": [1]}}, r"has no option `depth`; did you mean `depths`\?"),
        ({"options": {"_attn_implementation": "someone/kernel"}}, "has no option `_attn_implementation`"),
        ({"options": {"auto_map": {"AutoConfig": "a--b.C"}}}, "has no option `auto_map`"),
        ({"options": {"num_labels": 4}}, "the data set has the number of classes"),
        ({"options": {"depths": [1, 1]}}, "differ in their number of stages: `depths` 2, `hidden_sizes` 4"),
        ({"options": {"depths": "many"}}, "options of SegFormer are wrong: .*depths"),
        ({"options": {"num_attention_heads": [3, 2, 5, 8]}}, "must be multiples of `num_attention_heads`"),
        ({"options": {"hidden_act": "nothing"}}, "cannot be built: 'nothing'"),
        ({"options": {"depths": [100_000, 1, 1, 1], "hidden_sizes": [1, 2, 5, 8]}}, "more than 6,000 layers"),
        ({"options": {"hidden_sizes": [99_840, 64, 160, 256]}}, "more than .* parameters|can't allocate memory"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_refused(changed: dict[str, Any], message: str) -> None:
    config = {"library": "transformers", "name": CLASS, "options": {}, "num_classes": 5, **changed}
    with pytest.raises(RmrkdError, match=message):
        libraries.build_network(config, device="cpu")


def test_a_folder_of_another_model_or_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "beit"}')
    with pytest.raises(RmrkdError, match="is a `beit` model, and `Segformer"):
        libraries.network_config(spec(weights=str(tmp_path)), 5)
    with pytest.raises(RmrkdError, match=r"has no model.safetensors or pytorch_model.bin"):
        libraries.start_source(spec(weights=str(tmp_path)), "student")
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(RmrkdError, match="is not a readable JSON file"):
        libraries.network_config(spec(weights=str(tmp_path)), 5)


def test_a_model_that_is_not_in_the_cache_is_named_offline(tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RmrkdError, match=r"`nvidia/mit-b0` cannot be downloaded: .* its cache has no `config.json`"):
        libraries.network_config(spec(weights="nvidia/mit-b0"), 5)


def test_the_example_has_factors_for_layers_that_the_network_has() -> None:
    preset = load_preset(str(Path(__file__).parents[2] / "examples" / "segformer-b5-b0-city.yaml"))
    names = [name for name, _ in build().named_parameters()]
    found = {key: [name for name in names if key in name] for key in preset.schedule.optimizer.custom_keys}
    assert set(found) == {"head", "norm"}
    assert {name.split(".")[0] for name in found["head"]} == {"decode_head"}
    assert {"segformer.stages.0.layer_norm.weight", "segformer.stages.0.blocks.0.layernorm_before.bias"} <= set(
        found["norm"]
    )
