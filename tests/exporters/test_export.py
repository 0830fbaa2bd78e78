"""`rmrkd export`: onnxruntime and torch alone get the outputs of the network from the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
from rmrkd_cli.exporters import run as export_run
from rmrkd_cli.exporters.graph import AdaptivePooling
from rmrkd_cli.exporters.torchscript import EXTRA_FILE
from rmrkd_cli.exporters.verify import normalize, synthetic_images
from rmrkd_cli.installation.requirements import install_command
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.storage.cache import sha256_of
from rmrkd_cli.training.student_file import mmseg_config_text, write_student
from tests.helpers.cli import Outcome, rmrkd
from tests.helpers.students import random_student

SLIM_18 = {"backbone.base_channels": 8, "backbone.stem_channels": 8, "decode_head.in_channels": 64,
           "decode_head.channels": 16, "auxiliary_head.in_channels": 32, "auxiliary_head.channels": 8}  # fmt: skip
NARROW = {  # the families of students beside the PSPNet of `tiny`, an eighth as wide
    "deeplabv3": ("psp101-dl18-city", {"overrides": {**SLIM_18, "decode_head.align_corners": True}}),
    "deeplabv3plus": (
        "psp101-dl18-city",
        {"config": "deeplabv3plus/deeplabv3plus_r18-d8_512x1024_80k_cityscapes.py",
         "overrides": {**SLIM_18, "decode_head.c1_in_channels": 8, "decode_head.c1_channels": 4}},
    ),
    "mobilenetv2": ("dlp18w32-dlpmbv2x025-camvid", {}),
}  # fmt: skip
SUFFIX = {"onnx": ".onnx", "torchscript": ".pt"}
SIGMOID = {"type": "CrossEntropyLoss", "use_sigmoid": True}
CLASSES = ("--input", "normalized", "--output", "classes")
# Formats of each family, and their options; an ONNX export takes several seconds.
WRITTEN = {
    "deeplabv3": {"onnx": (), "torchscript": ()}, "deeplabv3plus": {"onnx": CLASSES, "torchscript": ()},
    "mobilenetv2": {"torchscript": ()},
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(student: Path) -> Path:
    """The ONNX file with all defaults."""
    check_export(student, student.with_suffix(".onnx"), "onnx", (96, 64))
    return student.with_suffix(".onnx")


def check_export(source: Path, target: Path, form: str, size: tuple[int, int], *options: object) -> None:
    """Export, and test the reported check: three sizes, two batch sizes, nearly all pixels equal."""
    outcome = rmrkd("export", source, target, "--json", "-", *options)
    assert outcome.exit_code == 0, outcome.message
    report = json.loads(outcome.stdout)
    assert (report["format"], report["bytes"]) == (form, target.stat().st_size)
    assert {(*one["size"], one["batch"]) for one in report["check"]} == {
        (*each, count) for each in (size, (375, 250), (193, 257)) for count in (1, 2)
    }
    assert sum(one["differing"] for one in report["check"]) <= 1e-4 * sum(one["pixels"] for one in report["check"])
    if "classes" not in options:
        assert 0 < max(one["logits"] for one in report["check"]) < 1e-3


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("inner", [1, 2, 3, 6, (2, 5)])
def test_adaptive_pooling_equals_torch(inner: Any) -> None:
    torch.manual_seed(0)
    pool, means = nn.AdaptiveAvgPool2d(inner), AdaptivePooling(inner if isinstance(inner, tuple) else (inner, inner))
    for height in range(1, 70):
        maps = torch.randn(1, 2, height, 131 - height, dtype=torch.float64)
        assert torch.allclose(means(maps), pool(maps), rtol=0, atol=1e-12)
        assert torch.allclose(means(maps.float()), pool(maps.float()), rtol=0, atol=1e-6)


# torch's exporter takes ten seconds a network.
FAMILIES = [pytest.param(name, marks=[pytest.mark.slow] * ("onnx" in WRITTEN[name])) for name in NARROW]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return the name of a family and the folder of its exported files."""
    folder = tmp_path_factory.mktemp(request.param)
    preset, changes = NARROW[request.param]
    random_student(folder / "s.pth", preset, [f"student.{key}={json.dumps(value)}" for key, value in changes.items()])
    for form, options in WRITTEN[request.param].items():
        check_export(folder / "s.pth", folder / f"s{SUFFIX[form]}", form, (96, 64), "--scale", "96x64", *options)
    return request.param, folder


def test_files_of_every_family_predict_the_classes_of_the_network(family: tuple[str, Path]) -> None:
    name, folder = family
    assert {path.name for path in folder.iterdir()} == {"s.pth", *(f"s{SUFFIX[form]}" for form in WRITTEN[name])}
    network = load_checkpoint_network(str(folder / "s.pth"), None, "cpu").network
    assert network.align_corners == (name == "deeplabv3")
    image = synthetic_images((190, 130), 3)
    ready = normalize(image)
    with torch.inference_mode():
        logits = network.eval().encode_decode(torch.from_numpy(ready), None).numpy()
    expected = logits.argmax(1)
    for form, options in WRITTEN[name].items():
        path = folder / f"s{SUFFIX[form]}"
        given = ready if options else image
        if form == "onnx":
            got = session(path).run(None, {"image": given})[0]
        else:
            got = torch.jit.load(str(path))(torch.from_numpy(given)).numpy()
        if options:
            assert (got.dtype, got.shape) == (np.uint8, (3, 130, 190))
            assert len(np.unique(got)) > 1
        else:
            assert np.abs(got - logits).max() < 1e-3
        assert ((got if options else got.argmax(1)) != expected).mean() <= 1e-4


def test_a_binary_head_uses_its_threshold(tmp_path: Path) -> None:
    preset = load_preset("psp18w32-psp18w8-camvid")
    config = network_config(preset.student, 2)
    config["decode_head"] |= {"out_channels": 1, "threshold": 0.3, "loss_decode": SIGMOID}
    config["auxiliary_head"] = None
    network = build_network(config, device="cpu")
    nn.init.normal_(network.decode_head.conv_seg.weight, std=0.5)
    image = synthetic_images((96, 64), 1)
    with torch.no_grad():
        network.train().encode_decode(torch.from_numpy(normalize(np.repeat(image, 2, 0))), None)
        logits = network.eval().encode_decode(torch.from_numpy(normalize(image)), None)
        network.decode_head.conv_seg.bias -= logits.median() + 0.8  # half of the pixels above a probability of 0.31
        expected = network.encode_decode(torch.from_numpy(normalize(image)), None)[:, 0].sigmoid() > 0.3
    assert 0.2 < expected.float().mean() < 0.8
    meta = {"CLASSES": ("no", "yes"), "config": mmseg_config_text(config, dataset_info(preset))}
    write_student(network, meta, tmp_path / "s.pth")
    check_export(tmp_path / "s.pth", tmp_path / "s.pt", "torchscript", (96, 64), "--scale", "96x64", *CLASSES)
    extra = {EXTRA_FILE: ""}
    got = torch.jit.load(str(tmp_path / "s.pt"), _extra_files=extra)(torch.from_numpy(normalize(image)))
    assert (got != expected).float().mean() <= 1e-3
    assert json.loads(extra[EXTRA_FILE])["decision"] == "class 1 where the sigmoid of the logit exceeds 0.3"


@pytest.mark.slow
def test_the_file_contains_its_metadata(student: Path, exported: Path) -> None:
    model = onnx.load(exported)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["decision"] == "argmax"
    assert properties["preprocessing"]["mean"] == [123.675, 116.28, 103.53]
    assert properties["preprocessing"]["resize"]["size"] == [96, 64]
    assert (properties["dataset"], properties["role"], properties["seed"], properties["iterations"]) == (
        "camvid",
        "distill",
        3,
        7,
    )
    assert properties["classes"][:2] == ["sky", "building"]
    assert properties["palette"][1] == [128, 0, 0]
    assert properties["source_sha256"] == sha256_of(student)
    assert not {node.op_type for node in model.graph.node} & {"BatchNormalization"}
    assert str(Path(export_run.__file__).parents[2]).encode() not in exported.read_bytes()
    inputs = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert inputs == [["batch", 3, "height", "width"]]


@pytest.mark.slow
def test_the_metadata_suffices_to_reproduce_predict(
    exported: Path, student: Path, camvid: Path, tmp_path: Path
) -> None:
    """Use onnxruntime, numpy, Pillow and the metadata of the file alone."""
    assert rmrkd("predict", student, camvid / "val", "--out", tmp_path / "out", "--workers", 0).exit_code == 0
    run = session(exported)
    properties = {key: json.loads(value) for key, value in run.get_modelmeta().custom_metadata_map.items()}
    assert (properties["preprocessing"]["layout"], properties["preprocessing"]["channels"]) == ("NCHW", "RGB")
    assert properties["preprocessing"]["normalized_inside"]
    kinds = set()
    for path in sorted((camvid / "val").iterdir()):
        image = Image.open(path).convert("RGB")
        assert list(image.size) == properties["preprocessing"]["resize"]["size"]
        batch = np.asarray(image).transpose(2, 0, 1)[None]
        classes = run.run(None, {run.get_inputs()[0].name: batch})[0].argmax(1)[0]
        assert np.array_equal(classes, np.asarray(Image.open(tmp_path / "out" / path.name)))
        kinds |= set(np.unique(classes).tolist())
    assert len(kinds) > 1


@pytest.mark.parametrize("wrong", ["bias", "scale"])
def test_a_file_with_other_outputs_is_not_kept(
    wrong: str, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes other logits with the same classes."""

    def changed(network: nn.Module, **options: Any) -> nn.Module:
        graph = build_graph(network, **options)
        last = graph.network.decode_head.conv_seg
        if wrong == "bias":
            last.bias += torch.arange(11) * 10
        else:
            last.weight *= 1.05
            last.bias *= 1.05
        return graph

    build_graph = export_run.build_graph
    monkeypatch.setattr(export_run, "build_graph", changed)
    outcome: Outcome = rmrkd("export", student, tmp_path / "x.pt")
    assert outcome.exit_code == 1
    assert ("logits" if wrong == "scale" else "another class") in outcome.message
    assert "not kept" in outcome.message
    assert list(tmp_path.iterdir()) == []


def test_missing_onnx_packages_are_reported_with_the_install_command(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmrkd_cli.exporters.onnx.find_spec", lambda name: None if name == "onnxscript" else name)
    outcome = rmrkd("export", student, tmp_path / "x.onnx")
    assert outcome.exit_code == 2
    assert "onnxscript" in outcome.message
    assert outcome.hint.startswith(install_command("onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"))


def test_check_images_are_compared_as_well(student: Path, camvid: Path, tmp_path: Path) -> None:
    outcome = rmrkd("export", student, tmp_path / "x.pt", "--check-images", camvid / "val", "--json", "-", *CLASSES)
    report = json.loads(outcome.stdout)["check"]
    assert [one["what"] for one in report if one["what"] != "drawn"] == [f"{number}.png" for number in range(4)]
