"""`rmrkd export`: files that onnxruntime and torch alone run as the network does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from rmrkd_cli.cache import sha256_of
from rmrkd_cli.engine import export_run
from rmrkd_cli.engine.export.check import drawn
from rmrkd_cli.engine.export.exportable import BinMeans
from rmrkd_cli.engine.export.torchscript_file import EXTRA_FILE
from tests.cli import Outcome, rmrkd
from tests.students import random_student

NARROW = {  # the families of students beside the PSPNet of `tiny`, a quarter as wide
    "deeplabv3": (
        "dl101-dlmbv2-city",
        ["student.overrides={backbone.widen_factor: 0.25, decode_head.in_channels: 80, decode_head.channels: 16, "
         "auxiliary_head.in_channels: 24, auxiliary_head.channels: 8, decode_head.align_corners: true}"],
    ),
    "deeplabv3plus": ("dlp18w32-dlpmbv2x025-camvid", []),
}  # fmt: skip


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    made = tmp_path_factory.mktemp("run") / "student.pth"
    random_student(made, str(tiny))
    return Path(shutil.copy(made, tmp_path_factory.mktemp("alone") / "student.pth"))


@pytest.fixture(scope="module")
def exported(student: Path) -> Path:
    """The ONNX file with all defaults."""
    check_export(student, student.with_suffix(".onnx"), "onnx", (96, 64))
    return student.with_suffix(".onnx")


def check_export(source: Path, target: Path, form: str, size: tuple[int, int], *options: object) -> None:
    """Exports, and holds the check that was told: three sizes and two batches, nearly every pixel the same."""
    outcome = rmrkd("export", source, target, "--json", "-", *options)
    assert outcome.exit_code == 0, outcome.message
    told = json.loads(outcome.stdout)
    assert (told["format"], told["bytes"]) == (form, target.stat().st_size)
    assert {(*one["size"], one["batch"]) for one in told["check"]} == {
        (*each, count) for each in (size, (375, 250), (193, 257)) for count in (1, 2)
    }
    assert sum(one["differing"] for one in told["check"]) <= 1e-4 * sum(one["pixels"] for one in told["check"])
    if "classes" not in options:
        assert 0 < max(one["logits"] for one in told["check"]) < 1e-3


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("inner", [1, 2, 3, 6, (2, 5)])
def test_means_of_bins_are_those_of_adaptive_pooling(inner: Any) -> None:
    torch.manual_seed(0)
    pool, means = nn.AdaptiveAvgPool2d(inner), BinMeans(inner if isinstance(inner, tuple) else (inner, inner))
    for height in range(1, 70):
        maps = torch.randn(1, 2, height, 131 - height, dtype=torch.float64)
        assert torch.allclose(means(maps), pool(maps), rtol=0, atol=1e-12)
        assert torch.allclose(means(maps.float()), pool(maps.float()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", NARROW)
def test_every_family_runs_in_onnxruntime_and_torchscript(family: str, tmp_path: Path) -> None:
    preset, overrides = NARROW[family]
    random_student(tmp_path / "s.pth", preset, overrides)
    for name, form in (("s.onnx", "onnx"), ("s.pt", "torchscript")):
        check_export(tmp_path / "s.pth", tmp_path / name, form, (128, 96), "--scale", "128x96")
    assert {path.name for path in tmp_path.iterdir()} == {"s.pth", "s.onnx", "s.pt"}


def test_the_file_says_what_it_is(student: Path, exported: Path) -> None:
    model = onnx.load(exported)
    held = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert held["preprocessing"]["mean"] == [123.675, 116.28, 103.53]
    assert held["preprocessing"]["resize"]["size"] == [96, 64]
    assert (held["dataset"], held["role"], held["seed"], held["iterations"]) == ("camvid", "distill", 3, 7)
    assert held["classes"][:2] == ["sky", "building"]
    assert held["palette"][1] == [128, 0, 0]
    assert held["source_sha256"] == sha256_of(student)
    assert not {node.op_type for node in model.graph.node} & {"BatchNormalization"}
    assert str(Path(export_run.__file__).parents[2]).encode() not in exported.read_bytes()
    inputs = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert inputs == [["batch", 3, "height", "width"]]


def test_whoever_ships_it_gets_what_predict_gives(exported: Path, student: Path, camvid: Path, tmp_path: Path) -> None:
    """With onnxruntime, numpy and Pillow, and nothing known but what the file says."""
    assert rmrkd("predict", student, camvid / "val", "--out", tmp_path / "out", "--workers", 0).exit_code == 0
    run = session(exported)
    held = {key: json.loads(value) for key, value in run.get_modelmeta().custom_metadata_map.items()}
    assert (held["preprocessing"]["layout"], held["preprocessing"]["channels"]) == ("NCHW", "RGB")
    assert held["preprocessing"]["normalized_inside"]
    kinds = set()
    for path in sorted((camvid / "val").iterdir()):
        image = Image.open(path).convert("RGB")
        assert list(image.size) == held["preprocessing"]["resize"]["size"]
        batch = np.asarray(image).transpose(2, 0, 1)[None]
        classes = run.run(None, {run.get_inputs()[0].name: batch})[0].argmax(1)[0]
        assert np.array_equal(classes, np.asarray(Image.open(tmp_path / "out" / path.name)))
        kinds |= set(np.unique(classes).tolist())
    assert len(kinds) > 1


def test_classes_and_normalized_input(student: Path, exported: Path, tmp_path: Path) -> None:
    asked = ("--input", "normalized", "--output", "classes", "--scale", "64x64")
    for name, form in (("c.onnx", "onnx"), ("c.pt", "torchscript")):
        check_export(student, tmp_path / name, form, (64, 64), *asked)
    image = drawn((90, 70), 3)
    mean, std = (np.float32(v).reshape(1, 3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    ready = ((image - mean) / std).astype(np.float32)
    expected = session(exported).run(None, {"image": image})[0].argmax(1)
    extra = {EXTRA_FILE: ""}
    traced = torch.jit.load(str(tmp_path / "c.pt"), _extra_files=extra)
    for got in (session(tmp_path / "c.onnx").run(None, {"image": ready})[0], traced(torch.from_numpy(ready)).numpy()):
        assert (got.dtype, got.shape) == (np.uint8, (3, 70, 90))
        assert (got != expected).mean() <= 1e-4
    assert json.loads(extra[EXTRA_FILE])["preprocessing"]["normalized_inside"] is False


def test_a_file_that_computes_something_else_is_not_kept(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: nn.Module, **options: Any) -> nn.Module:
        graph = exportable(network, **options)
        graph.network.decode_head.conv_seg.bias += torch.arange(11) * 10
        return graph

    exportable = export_run.exportable
    monkeypatch.setattr(export_run, "exportable", wrong)
    outcome: Outcome = rmrkd("export", student, tmp_path / "x.pt")
    assert outcome.exit_code == 1
    assert "another class" in outcome.message
    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_onnx_is_refused_with_the_command(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rmrkd_cli.engine.export.onnx_file.find_spec", lambda name: None if name == "onnxscript" else name
    )
    outcome = rmrkd("export", student, tmp_path / "x.onnx")
    assert outcome.exit_code == 2
    assert "onnxscript" in outcome.message
    assert "rmrkd[export]" in outcome.hint


def test_images_of_ones_own_are_checked_too(student: Path, camvid: Path, tmp_path: Path) -> None:
    outcome = rmrkd("export", student, tmp_path / "x.pt", "--check-images", camvid / "val", "--json", "-")
    told = json.loads(outcome.stdout)["check"]
    assert [one["what"] for one in told if one["what"] != "drawn"] == [f"{number}.png" for number in range(4)]
