"""DINOv2 of transformers: its maps are those of the library, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks import libraries
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.autocast import cast_for_autocast
from rmrkd_cli.networks.feature_maps import measure_shapes
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.networks.weights import load_weights
from rmrkd_cli.presets.network_schema import Network
from tests.helpers.foundation import SIZES, write_dinov2

transformers: Any = pytest.importorskip("transformers")

PREFIX = {"Dinov2Model": 1, "Dinov2WithRegistersModel": 5}  # tokens of class and registers
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2Model", {}),
    "giant's layers": ("Dinov2Model", {"use_swiglu_ffn": True}),
    "registers": ("Dinov2WithRegistersModel", {}),
}


@pytest.fixture(scope="module", params=list(KINDS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, options = KINDS[request.param]
    return write_dinov2(tmp_path_factory.mktemp("models") / name, name, **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dinov2(tmp_path_factory.mktemp("plain") / "dinov2")


def spec_of(folder: Path, **keys: Any) -> Network:
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    return Network(**{"library": "transformers", "name": architecture, "weights": str(folder), **keys})


def load(folder: Path, **keys: Any) -> nn.Module:
    spec = spec_of(folder, **keys)
    network = libraries.build_network(libraries.network_config(spec, 5), device="cpu").eval()
    source = libraries.start_source(spec, "teacher")
    assert source is not None
    load_weights(network, source, role="teacher")
    return network


def images_of(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def expected_maps(folder: Path, images: Tensor) -> dict[int, Tensor]:
    """The maps that the library itself gives for images whose sides are multiples of 14."""
    name = spec_of(folder).name
    network = getattr(transformers, str(name)).from_pretrained(folder).eval()
    output = network(images, output_hidden_states=True)
    assert len(output.hidden_states) == 5  # the embeddings, and four layers
    tokens = [network.layernorm(hidden)[:, PREFIX[str(name)] :] for hidden in output.hidden_states[1:]]
    torch.testing.assert_close(tokens[-1], output.last_hidden_state[:, PREFIX[str(name)] :], rtol=0, atol=0)
    rows, columns = images.shape[2] // 14, images.shape[3] // 14
    return {stage: each.reshape(2, rows, columns, -1).permute(0, 3, 1, 2) for stage, each in enumerate(tokens, 1)}


@torch.no_grad()
@pytest.mark.parametrize("size", [(28, 28), (42, 70)])
def test_maps_are_those_of_the_library(folder: Path, size: tuple[int, int]) -> None:
    network, images = load(folder), images_of(*size)
    maps, expected = adapter_of(network).maps(network, images), expected_maps(folder, images)
    assert set(maps) == set(expected) == {1, 2, 3, 4}
    for stage, want in expected.items():
        assert want.std() > 0.1
        torch.testing.assert_close(maps[stage], want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_maps_are_those_of_the_librarys_backbone(plain: Path) -> None:
    """`Dinov2Backbone` gives the same layers as maps."""
    backbone = transformers.Dinov2Backbone.from_pretrained(plain, out_indices=[1, 2, 3, 4]).eval()
    network, images = load(plain), images_of(42, 70)
    for want, got in zip(
        backbone(images).feature_maps, adapter_of(network).maps(network, images).values(), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "scale", "resized"), [((45, 96), 1, (56, 98)), ((48, 48), 2, (98, 98)), ((56, 28), 0.5, (28, 14))]
)
def test_an_image_is_resized_to_multiples_of_the_patch(
    plain: Path, size: tuple[int, int], scale: float, resized: tuple[int, int]
) -> None:
    network, images = load(plain, options={"scale": scale}), images_of(*size)
    expected = expected_maps(plain, F.interpolate(images, resized, mode="bilinear", align_corners=False))
    got = adapter_of(network).maps(network, images)
    assert got[4].shape[2:] == (resized[0] // 14, resized[1] // 14)
    torch.testing.assert_close(got[4], expected[4], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_images_are_normalized_as_the_folder_says(plain: Path, tmp_path: Path) -> None:
    other = shutil.copytree(plain, tmp_path / "other")
    (other / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    network, images = load(other), torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]]).view(2, 1, 3, 1, 1)
    got = adapter_of(network).maps(network, (255 * images - mean) / std)[4]
    torch.testing.assert_close(got, expected_maps(plain, (images - 0.5) / 0.5)[4], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_maps_may_be_placed_elsewhere(plain: Path) -> None:
    network = load(plain, maps={"stage3": "encoder.layer.0", "head": "layernorm"})
    maps = adapter_of(network).maps(network, images_of(28, 28))
    assert torch.equal(maps[3], maps[1])
    assert torch.equal(maps["head"], maps[4])


@torch.no_grad()
def test_the_map_of_the_first_convolution_stays_as_it_is(folder: Path) -> None:
    place, images = "embeddings.patch_embeddings.projection", images_of(42, 70)
    plain = getattr(transformers, str(spec_of(folder).name)).from_pretrained(folder).eval()
    network = load(folder, maps={"stage1": place})
    got = adapter_of(network).maps(network, images)[1]
    assert torch.equal(got, plain.get_submodule(place)(images))


@torch.no_grad()
def test_a_module_inside_a_layer_is_a_map_of_its_own_values(folder: Path) -> None:
    """Only a whole layer passes the layer norm."""
    name = str(spec_of(folder).name)
    plain = getattr(transformers, name).from_pretrained(folder).eval()
    places = ["encoder.layer.1.attention", "encoder.layer.1.norm2:input"]
    wide = "encoder.layer.2.mlp" + (".up_proj" if hasattr(plain.encoder.layer[2].mlp, "up_proj") else ".fc1")
    places.append(wide)
    images, recorded = images_of(42, 70), []
    for place in places:
        module, _, end = place.partition(":")
        keep = (lambda _, given: recorded.append(given[0])) if end else (lambda _, __, output: recorded.append(output))
        target = plain.get_submodule(module)
        target.register_forward_pre_hook(keep) if end else target.register_forward_hook(keep)  # type: ignore[arg-type]
    plain(images)
    attended, residual, widened = (each[0] if isinstance(each, tuple) else each for each in recorded)
    network = load(folder, maps=dict(zip(("stage2", "stage3", "stage4"), places, strict=True)))
    maps = adapter_of(network).maps(network, images)
    for stage, tokens in ((2, attended), (3, residual), (4, widened)):
        want = tokens[:, PREFIX[name] :].reshape(2, 3, 5, -1).permute(0, 3, 1, 2)
        assert want.std() > 0.01
        torch.testing.assert_close(maps[stage], want, rtol=1e-5, atol=1e-5)
    assert maps[4].shape[1] > maps[3].shape[1] == 24


@torch.no_grad()
def test_the_input_of_a_layer_is_the_output_of_the_one_before(plain: Path) -> None:
    network = load(plain, maps={"head": "encoder.layer.2:input"})
    maps = adapter_of(network).maps(network, images_of(28, 28))
    assert torch.equal(maps["head"], maps[2])


@pytest.mark.parametrize("place", ["encoder", "encoder.layer", "embeddings:input"])
def test_a_place_without_a_map_is_refused_when_the_network_is_built(plain: Path, place: str) -> None:
    error = refusal(plain, maps={"stage2": place})
    assert f"`maps.stage2: {place}` is no map: for an image of 2x3 patches it is " in error.message
    assert "such as encoder.layer.0" in error.hint
    with pytest.raises(RmrkdError, match="is no map"):
        libraries.build_outline(libraries.network_config(spec_of(plain, maps={"stage2": place}), 5))


@pytest.mark.parametrize(("layers", "places"), [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (2, [0, 0, 1, 1])])
def test_the_stages_are_at_the_quarters_of_the_depth(layers: int, places: list[int]) -> None:
    spec = Network(
        library="transformers", name="Dinov2Model", options={**SIZES, "num_hidden_layers": layers}, weights="none"
    )
    with on_meta():
        network = libraries.build_network(libraries.network_config(spec, 5), device="cpu")
    assert list(adapter_of(network).modules.values()) == [f"encoder.layer.{each}" for each in places]  # type: ignore[attr-defined]


def test_an_outline_has_the_shapes_of_the_network_without_values(folder: Path) -> None:
    outline = libraries.build_outline(libraries.network_config(spec_of(folder), 5))
    with on_meta():
        shapes = measure_shapes(outline, (48, 72))
    assert shapes.channels == {1: 24, 2: 24, 3: 24, 4: 24}
    assert set(shapes.sizes.values()) == {(4, 6)}
    assert shapes.only_features


@torch.no_grad()
def test_a_copy_for_inference_is_equal_and_frozen_and_half_precision_is_near(plain: Path) -> None:
    network, images = load(plain), images_of(42, 42)
    ready = inference_network(network, "cpu")
    assert not ready.training
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    want = adapter_of(network).maps(network, images)[4]
    torch.testing.assert_close(adapter_of(ready).maps(ready, images)[4], want, rtol=0, atol=0)
    cast_for_autocast(ready, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        got = adapter_of(ready).maps(ready, images)[4].float()
    assert (got - want).norm() <= 0.05 * want.norm()


def test_it_has_no_logits(plain: Path) -> None:
    network = load(plain)
    with pytest.raises(RmrkdError, match="`Dinov2Model` gives feature maps and no logits"):
        adapter_of(network).logits(network, images_of(28, 28))


def refusal(folder: Path, **keys: Any) -> RmrkdError:
    spec = Network(**{"library": "transformers", "name": "Dinov2Model", "weights": str(folder), **keys})
    with pytest.raises(RmrkdError) as caught:
        libraries.build_network(libraries.network_config(spec, 5), device="cpu")
    return caught.value


def test_a_missing_or_incomplete_folder_is_named(plain: Path, tmp_path: Path) -> None:
    error = refusal(tmp_path / "none")
    assert "does not exist; `weights` must be a folder on this machine" in error.message
    assert "hf download facebook/dinov2-base --local-dir dinov2-base" in error.hint
    assert "facebook/dinov2-base` of `Dinov2Model` does not exist" in refusal(Path("facebook/dinov2-base")).message
    file = plain / "model.safetensors"
    assert refusal(file).message == f"`weights` of `Dinov2Model` must be a folder, got the file `{file}`"
    assert "has no config.json and no model.safetensors" in refusal(tmp_path).message
    pickled = shutil.copytree(plain, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "has no model.safetensors; pickled weights are not read" in refusal(pickled).message


def test_another_model_or_option_is_named(plain: Path, tmp_path: Path) -> None:
    registers = write_dinov2(tmp_path / "registers", "Dinov2WithRegistersModel")
    assert "is a `dinov2_with_registers` model, and `Dinov2Model` needs `dinov2`" in refusal(registers).message
    assert "has no option `scales`; did you mean `scale`?" in refusal(plain, options={"scales": 2}).message
    for scale in (0, -1, 9, "2", True):
        refused = refusal(plain, options={"scale": scale})
        assert "`options.scale` must be from 0.125 to 8.0, got" in refused.message
        assert refused.hint == "--set teacher.options.scale=1"
    assert "has no option `auto_map`" in refusal(plain, options={"auto_map": {"AutoModel": "a.B"}}).message
    assert "cannot be built" in refusal(plain, options={"hidden_act": "nothing"}).message
    assert "has no module `encoder.layer.7`" in refusal(plain, maps={"stage4": "encoder.layer.7"}).message
    error = refusal(plain, name="Dinov2Modell")
    assert "did you mean `Dinov2Model`?" in error.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_hidden_layers": 0}, "`num_hidden_layers` of `Dinov2Model` must be at least 1, got 0"),
        ({"patch_size": 0}, "`patch_size` of `Dinov2Model` must be at least 1, got 0"),
        ({"patch_size": [14, 0]}, "`patch_size` of `Dinov2Model` must be at least 1, got "),
        ({"image_size": [56, 28]}, "must have as many patches in height as in width, got "),
        ({"image_size": [56, 14]}, "must have as many patches in height as in width, got "),
        ({"image_size": 13}, "`image_size` of `Dinov2Model` must be at least `patch_size`, got 13 and 14"),
    ],
)
def test_sizes_that_cannot_be_are_named(plain: Path, options: dict[str, Any], message: str) -> None:
    error = refusal(plain, weights="none", options={**SIZES, **options})
    assert message in error.message
    assert error.hint == "correct it in `options` of the preset, or in config.json of the folder"


@torch.no_grad()
def test_patches_may_be_oblong(plain: Path) -> None:
    spec = spec_of(plain, weights="none", options={**SIZES, "patch_size": [14, 7], "image_size": [56, 28]})
    network = libraries.build_network(libraries.network_config(spec, 5), device="cpu").eval()
    assert adapter_of(network).maps(network, images_of(28, 28))[4].shape == (2, 24, 2, 4)


def test_code_in_a_folder_is_not_run(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "code")
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    network = load(folder)
    assert type(network).__module__.startswith("transformers.models.dinov2.")


def test_weights_that_do_not_cover_the_network_are_refused(plain: Path, tmp_path: Path) -> None:
    deeper = shutil.copytree(plain, tmp_path / "deeper")
    config = json.loads((deeper / "config.json").read_text()) | {"num_hidden_layers": 5}
    (deeper / "config.json").write_text(json.dumps(config))
    with pytest.raises(RmrkdError, match=r"missing: encoder\.layer \(18\)"):
        load(deeper)


def test_without_the_package_the_command_that_installs_it_is_named(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmrkd_cli.networks.description.find_spec", lambda _: None)
    error = refusal(plain)
    assert "needs the package transformers, which is not installed" in error.message
    assert "transformers" in error.hint
