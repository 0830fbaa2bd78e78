"""Networks of torchvision as teachers and students, through every command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import mobilenet_v3_large, resnet101, segmentation

import rmrkd_cli
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import measure_shapes, segment
from rmrkd_cli.networks.libraries import build_network, build_outline, network_config, resolve_weights, start_source
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.networks.weights import load_weights
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.network_schema import CheckpointSource, Network
from tests.helpers.cli import rmrkd
from tests.helpers.resumed import assert_resumed_exactly

CLASSES = 11
LRASPP, DEEPLAB = "lraspp_mobilenet_v3_large", "deeplabv3_resnet50"
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
PRESET = """
dataset: camvid
role: all
data: {{root: {root}, train_scale: [96, 64], eval_scale: [96, 64]}}
teacher: {{library: torchvision, name: {teacher}}}
student: {{library: torchvision, name: lraspp_mobilenet_v3_large}}
losses:
  rmrkd: {{type: rmrkd, stage: 2, weight: 1.0}}
  cwd: {{type: cwd, weight: 1.0}}
  kd: {{type: kd, weight: 1.0}}
schedule: {{iters: 4, crop: [64, 64], batch_size: 2, workers: 0, eval_interval: 2, checkpoint_interval: 2}}
"""


def spec(name: str, **keys: Any) -> Network:
    return Network(library="torchvision", name=name, **keys)


def build(name: str, **keys: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(network_config(spec(name, **keys), CLASSES), device="cpu").eval()


@pytest.fixture(scope="module")
def deeplab() -> torch.nn.Module:
    return build(DEEPLAB, options={"aux_loss": True})


@torch.no_grad()
def test_the_output_is_that_of_torchvision(deeplab: torch.nn.Module) -> None:
    """Also the state dict, whose names are torchvision's own."""
    original = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    original.load_state_dict(deeplab.state_dict())
    expected = original.eval()(IMAGES)
    assert torch.allclose(segment(deeplab, IMAGES), expected["out"], atol=1e-5)
    maps = adapter_of(deeplab).maps(deeplab, IMAGES, auxiliary=True)
    auxiliary = torch.nn.functional.interpolate(maps["aux"], IMAGES.shape[2:], mode="bilinear")
    assert torch.allclose(auxiliary, expected["aux"], atol=1e-5)
    assert torch.equal(deeplab.classifier[4](maps["head"]), maps["logits"])


@pytest.mark.parametrize("name", [LRASPP, "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "deeplabv3_resnet101"])
def test_shapes_of_all_families_are_known_from_the_outline(name: str) -> None:
    network = build_outline(network_config(spec(name), CLASSES))
    with on_meta():
        shapes = measure_shapes(network)
    is_mobilenet = "mobilenet" in name
    assert [shapes.strides[stage] for stage in (1, 2, 3, 4)] == ([4, 8, 16, 16] if is_mobilenet else [4, 8, 8, 8])
    channels = [24, 40, 112, 960] if is_mobilenet else [256, 512, 1024, 2048]
    assert [shapes.channels[stage] for stage in (1, 2, 3, 4)] == channels
    assert shapes.channels["logits"] == CLASSES
    assert ("head" in shapes.channels) == (name != LRASPP)


def test_a_map_is_taken_where_the_preset_says(deeplab: torch.nn.Module) -> None:
    network = build(LRASPP, maps={"stage3": "backbone.10", "head": "classifier.high_classifier:input"})
    shapes = measure_shapes(network)
    assert (shapes.channels[3], shapes.channels["head"]) == (80, 128)
    with pytest.raises(RmrkdError, match=r"`maps.stage3`: the network has no module `backbone.17`; did you mean"):
        build(LRASPP, maps={"stage3": "backbone.17"})


def test_cross_entropy_is_the_mean_over_labelled_pixels(deeplab: torch.nn.Module) -> None:
    """With the factor of torchvision's reference training for the auxiliary head; 0 where nothing is labelled."""
    labels = torch.randint(0, CLASSES, (2, 1, 64, 96))
    labels[:, :, ::3] = 255
    model = Distiller(deeplab)
    with torch.no_grad():
        losses, maps = model.forward_with_features(IMAGES, labels)
        for name, of, factor in (("ce", "logits", 1.0), ("aux_ce", "aux", 0.5)):
            big = torch.nn.functional.interpolate(maps[of], (64, 96), mode="bilinear", align_corners=False)
            expected = torch.nn.functional.cross_entropy(big, labels[:, 0], ignore_index=255)
            assert losses[name].item() == pytest.approx(factor * expected.item(), rel=1e-5)
    nothing = Distiller(build(LRASPP).train())(IMAGES, torch.full_like(labels, 255))["ce"]
    nothing.backward()
    assert nothing.item() == 0.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "deeplabv3_resnet5"}, "no segmentation network `deeplabv3_resnet5`.*deeplabv3_resnet50"),
        ({"name": "resnet50"}, "no segmentation network `resnet50`"),
        ({"name": LRASPP, "options": {"weights": "x"}}, "has no option `weights`"),
        ({"name": DEEPLAB, "options": {"aux_los": True}}, "has no option `aux_los`.*aux_loss"),
    ],
)
def test_what_torchvision_lacks_is_named_with_the_nearest(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RmrkdError, match=message):
        network_config(Network(library="torchvision", **keys), CLASSES)


def test_names_of_weights_are_those_of_torchvision() -> None:
    source = start_source(spec(LRASPP, weights="IMAGENET1K_V2"), "student")
    assert source is not None
    assert source.url is not None
    assert source.url.endswith("mobilenet_v3_large-5c1a4163.pth")
    assert source.sha256 == "5c1a4163"
    with pytest.raises(RmrkdError, match=r"`student.weights`: torchvision has no weights `IMAGENET1K_V3`") as caught:
        start_source(spec(LRASPP, weights="IMAGENET1K_V3"), "student")
    assert "COCO_WITH_VOC_LABELS_V1" in caught.value.hint


@pytest.mark.parametrize(
    ("weights", "is_trained"), [("none", False), ("IMAGENET1K_V2", False), ("COCO_WITH_VOC_LABELS_V1", True)]
)
def test_a_teacher_with_weights_of_the_whole_network_is_not_trained(weights: str, is_trained: bool) -> None:
    preset = load_preset("demo").model_copy(
        update={"teacher": load_preset("demo").teacher.model_copy(
            update={"library": "torchvision", "config": None, "name": LRASPP, "weights": weights}
        )}
    )  # fmt: skip
    assert (resolve_weights(preset).teacher.checkpoint is not None) == is_trained


def test_weights_of_a_deeper_backbone_are_refused(tmp_path: Path, deeplab: torch.nn.Module) -> None:
    """A ResNet-50 has all layers of the file but those in between."""
    torch.save(resnet101(weights=None).state_dict(), tmp_path / "r101.pth")
    with pytest.raises(RmrkdError, match=r"unexpected: backbone.layer3 \(306\)"):
        load_weights(deeplab, CheckpointSource(path=str(tmp_path / "r101.pth")), role="student")


def test_a_student_starts_from_a_network_of_other_classes_with_allow_partial(camvid: Path, tmp_path: Path) -> None:
    weights, preset = tmp_path / "voc.pth", tmp_path / "preset.yaml"
    torch.save(build_network(network_config(spec(LRASPP), 21), device="cpu").state_dict(), weights)
    text = PRESET.format(root=camvid, teacher=LRASPP)
    student = f"student: {{library: torchvision, name: {LRASPP}"
    preset.write_text(text.replace(student, f"{student}, weights: {weights}"))
    words = ("train", "--preset", preset, "--role", "baseline", "--work-dir", tmp_path / "work", "--device", "cpu")
    outcome = rmrkd(*words)
    assert outcome.exit_code == 2
    assert "--allow-partial" in outcome.hint
    outcome = rmrkd(*words, "--allow-partial", "--max-iters", "1")
    assert outcome.exit_code == 0, outcome.message
    assert "allow_partial: true" in (tmp_path / "work/baseline/config.yaml").read_text()


def test_weights_of_a_backbone_and_of_a_whole_network_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(5)
    classifier = mobilenet_v3_large(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "imagenet.pth")
    whole = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    network = build(LRASPP)
    load_weights(network, CheckpointSource(path=str(tmp_path / "imagenet.pth")), role="student")
    assert torch.equal(network.backbone["0"][0].weight, classifier.features[0][0].weight)
    load_weights(network, CheckpointSource(path=str(tmp_path / "whole.pth")), role="student")
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in network.state_dict().items())
    with pytest.raises(RmrkdError, match="does not match the network"):
        load_weights(network, CheckpointSource(path=str(tmp_path / "imagenet.pth")), role="teacher")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, camvid: Path) -> Path:
    """The work directory of a run of all roles, whose teacher starts from weights of its backbone."""
    folder = tmp_path_factory.mktemp("torchvision")
    preset, weights = folder / "preset.yaml", folder / "imagenet.pth"
    torch.save(mobilenet_v3_large(weights=None).state_dict(), weights)
    preset.write_text(PRESET.format(root=camvid, teacher=f"{LRASPP}, weights: {weights}"))
    work = folder / "work"
    common = ("train", "--preset", preset, "--work-dir", work, "--device", "cpu")
    assert rmrkd(*common).exit_code == 0
    return work


def test_a_student_needs_its_file_alone(trained: Path, tmp_path: Path) -> None:
    file = trained / "distill" / "student.pth"
    contents = torch.load(file, weights_only=True)
    assert contents["meta"]["network"] == {
        "library": "torchvision", "name": LRASPP, "options": {}, "num_classes": CLASSES
    }  # fmt: skip
    assert "config" not in contents["meta"]
    assert contents["state_dict"].keys() == build(LRASPP).state_dict().keys()
    moved = tmp_path / "moved.pth"
    outcome = rmrkd("transfer", trained / "distill" / "last.pth", moved)
    assert outcome.exit_code == 0
    written = torch.load(moved, weights_only=True)
    assert all(torch.equal(written["state_dict"][key], value) for key, value in contents["state_dict"].items())
    for one in (file, moved):
        outcome = rmrkd("eval", one, "--device", "cpu", "--json", "-", "--data-root", _root(trained))
        assert outcome.exit_code == 0, outcome.message
        assert json.loads(outcome.stdout)["metrics"] == json.loads((file.parent / "result.json").read_text())["metrics"]
    network, images = rmrkd_cli.load_network(file), torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(rmrkd_cli.segment(network, images), network(images)["out"])
    assert rmrkd("transfer", file, tmp_path / "again.pth").exit_code == 2
    outcome = rmrkd("transfer", trained / "distill" / "last.pth", tmp_path / "x.pth", "--config", tmp_path / "c.py")
    assert "contains no config" in outcome.message


def _root(work: Path) -> Path:
    import yaml

    return Path(yaml.safe_load((work / "distill" / "config.yaml").read_text())["data"]["root"])


def test_it_predicts_compares_and_exports(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmrkd_cli.evaluation.latency._MAX_ROUNDS", 2)
    files = [trained / role / "student.pth" for role in ("baseline", "distill")]
    image = next((_root(trained) / "val").glob("*.png"))
    outcome = rmrkd("predict", files[1], image, "--out", tmp_path / "out", "--device", "cpu")
    assert outcome.exit_code == 0, outcome.message
    outcome = rmrkd("compare", *files, "--device", "cpu", "--data-root", _root(trained))
    assert outcome.exit_code == 0, outcome.message
    outcome = rmrkd("export", files[1], tmp_path / "x.pt")
    assert outcome.exit_code == 0, outcome.message
    assert (tmp_path / "x.pt").stat().st_size > 1 << 20


def test_a_resumed_run_is_exact(trained: Path, tmp_path: Path) -> None:
    assert_resumed_exactly(trained, tmp_path)


def damaged(change: dict[str, Any], source: Path, target: Path) -> Path:
    contents = torch.load(source, weights_only=True)
    contents["meta"]["network"] |= change
    torch.save(contents, target)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"library": "os"}, "library `os` is unknown"),
        ({"name": "nothing"}, "no segmentation network `nothing`"),
        ({"num_classes": "many"}, "description is damaged"),
        ({"num_classes": 4000}, "parameters|does not match"),
        ({"name": DEEPLAB}, "more than .* parameters"),
        ({"options": "weights"}, "description is damaged"),
        ({"maps": {"stage4": "a.b"}}, "has no module `a.b`"),
    ],
)
def test_a_hostile_description_is_refused(trained: Path, tmp_path: Path, change: Any, message: str) -> None:
    file = damaged(change, trained / "distill" / "student.pth", tmp_path / "x.pth")
    outcome = rmrkd("eval", file, "--device", "cpu", "--data-root", _root(trained))
    assert outcome.exit_code == 2, outcome.message
    assert re.search(message, outcome.message), outcome.message


@pytest.mark.slow
def test_a_large_teacher_teaches_a_small_student_that_is_exported(tmp_path: Path, camvid: Path) -> None:
    """DeepLabV3-ResNet-50 → LR-ASPP-MobileNetV3, by three methods at once and by each alone → ONNX."""
    preset = tmp_path / "preset.yaml"
    preset.write_text(PRESET.format(root=camvid, teacher=DEEPLAB))
    common = ("train", "--preset", preset, "--work-dir", tmp_path / "work", "--device", "cpu", "--max-iters", "2")
    outcome = rmrkd(*common)
    assert outcome.exit_code == 0, outcome.message
    methods = ("rmrkd", "cwd", "kd")
    for method in methods:
        drop = [word for name in methods if name != method for word in ("--set", f"losses.{name}=null")]
        given = ("--teacher-checkpoint", tmp_path / "work" / "teacher" / "student.pth", "--role", "distill", *drop)
        outcome = rmrkd(*common, *given, "--work-dir", tmp_path / method)
        assert outcome.exit_code == 0, outcome.message
    outcome = rmrkd("export", tmp_path / "work" / "distill" / "student.pth", tmp_path / "x.onnx")
    assert outcome.exit_code == 0, outcome.message
    assert (tmp_path / "x.onnx").stat().st_size > 1 << 20


def test_a_student_of_torchvision_learns_from_a_teacher_of_mmsegmentation(tiny: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mixed.yaml"
    lines = tiny.read_text()
    start, end = lines.index("student:"), lines.index("losses:")
    student = "student: {library: torchvision, name: lraspp_mobilenet_v3_large}\n"
    preset.write_text(
        lines[:start] + student + "losses:\n  kd: {type: kd, weight: 1.0}\n" + lines[lines.index("schedule:") :]
    )
    assert end > start
    common = ("train", "--preset", preset, "--work-dir", tmp_path / "work", "--device", "cpu", "--max-iters", "2")
    outcome = rmrkd(*common)
    assert outcome.exit_code == 0, outcome.message
    names: dict[str, Tensor] = torch.load(tmp_path / "work/distill/student.pth", weights_only=True)["state_dict"]
    assert all(key.startswith(("backbone.", "classifier.")) for key in names)
