"""`rmrkd export --quantize int8`: the file computes in integers, is measured, and is refused if it loses too much."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.evaluation.model_card import ModelCard
from rmrkd_cli.exporters import int8
from rmrkd_cli.exporters.calibration import choose_images, prepared
from rmrkd_cli.exporters.onnx import onnx_runner
from rmrkd_cli.exporters.quantization_loss import QuantizationLoss, check_loss, measure_loss
from rmrkd_cli.networks.adapter import set_adapter
from rmrkd_cli.networks.file_network import FileAdapter
from rmrkd_cli.networks.onnx_runner import OnnxRunner
from tests.helpers import network_files
from tests.helpers.cli import rmrkd


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("there", "count", "calibrated", "held_out"),
    [(2, 128, 1, 1), (4, 128, 3, 1), (11, 128, 9, 2), (300, 128, 128, 32), (300, 8, 8, 2)],
)
def test_images_are_split_alike_every_time(
    there: int, count: int, calibrated: int, held_out: int, tmp_path: Path
) -> None:
    for number in range(there):
        (tmp_path / f"{number:03}.png").touch()
    (tmp_path / "drive.mp4").touch()
    images = choose_images(tmp_path, count)
    assert (len(images.calibrated), len(images.held_out)) == (calibrated, held_out)
    assert not set(images.calibrated) & set(images.held_out)
    assert choose_images(tmp_path, count) == images
    numbers = [int(path.stem) for path in (*images.calibrated, *images.held_out)]
    assert max(numbers) - min(numbers) >= 0.9 * (there - 1)  # spread over the whole folder


def test_images_are_prepared_as_in_the_evaluation(camvid: Path, tmp_path: Path) -> None:
    paths = sorted((camvid / "val").iterdir())[:2]
    card = ModelCard(("a",), ((0, 0, 0),), (48, 64), None)
    first = next(prepared(paths, card))
    assert (first.shape, first.dtype) == ((1, 3, 43, 64), np.uint8)  # 96x64 fitted into 64x48
    small = ModelCard(("a",), ((0, 0, 0),), (32, 40), None)
    with pytest.raises(RmrkdError, match=r"has 96x64 pixels, which is less than 32 in a direction"):
        next(prepared(paths, small))


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    """A 1x1 convolution of raw images; its channels have weights of very different size."""
    path = network_files.write_onnx(tmp_path / "float.onnx", kind=onnx.TensorProto.UINT8, scale=1.0)
    model = onnx.load(path)
    kernel = (
        numpy_helper.to_array(model.graph.initializer[0])
        * np.array([1, 1e-2, 1e-3, 1], np.float32)[:, None, None, None]
    )
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(kernel.astype(np.float32), "kernel"))
    onnx.save(model, path)
    return path


def images(count: int = 4) -> list[np.ndarray]:
    return [np.random.default_rng(number).integers(0, 256, (1, 3, 40, 48), np.uint8) for number in range(count)]


def test_weights_are_quantized_for_each_channel(float_file: Path, tmp_path: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    int8.write_int8(float_file, tmp_path / "int8.onnx", iter(images()))
    assert logging.getLogger().handlers == handlers
    model = onnx.load(tmp_path / "int8.onnx")
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    assert weights["kernel_quantized"].dtype == np.int8
    scales = weights["kernel_scale"]
    assert scales.shape == (4,)
    assert scales[2] < scales[0] / 100
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    assert producers[next(node for node in model.graph.node if node.op_type == "Conv").input[0]] == "DequantizeLinear"
    assert cast.input[0] == "image"  # the image itself is not quantized again
    image = images()[0]
    expected, got = onnx_runner(float_file)(image), run_exactly(tmp_path / "int8.onnx", image)
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
    assert (got != expected).any()


def run_exactly(path: Path, image: np.ndarray) -> np.ndarray:
    """Run a file without the saturating 16-bit sums of x86 CPUs that have no VNNI."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options).run(None, {"image": image})[0]


def test_seven_bits_do_not_saturate(float_file: Path, tmp_path: Path) -> None:
    for bits in (8, 7):
        int8.write_int8(float_file, tmp_path / f"{bits}.onnx", iter(images()), weight_bits=bits)
        kernel = next(
            one for one in onnx.load(tmp_path / f"{bits}.onnx").graph.initializer if one.name == "kernel_quantized"
        )
        assert np.abs(numpy_helper.to_array(kernel)).max() == {8: 127, 7: 64}[bits]
    expected, got = (onnx_runner(path)(images()[0]) for path in (float_file, tmp_path / "7.onnx"))
    assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()


def test_parameters_of_a_quantized_file_are_those_of_the_float_file(float_file: Path, tmp_path: Path) -> None:
    int8.write_int8(float_file, tmp_path / "int8.onnx", iter(images()))
    assert OnnxRunner(tmp_path / "int8.onnx").parameters == OnnxRunner(float_file).parameters == 12
    assert OnnxRunner(tmp_path / "int8.onnx").count_macs(torch.zeros(1, 3, 8, 8)) == 12 * 64


def test_a_damaged_image_is_named_not_the_quantization(float_file: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    card = ModelCard(("a",), ((0, 0, 0),), None, None)
    with pytest.raises(RmrkdError, match=r"x\.png"):
        int8.write_int8(float_file, tmp_path / "int8.onnx", prepared([tmp_path / "x.png"], card))


def network(classes: int) -> torch.nn.Module:
    module = torch.nn.Identity()
    set_adapter(module, FileAdapter(classes))
    return module


def returns(*maps: list[list[int]]) -> Any:
    """Return a runner that gives these class maps as logits, one a call."""
    queue = [np.eye(3, dtype=np.float32)[np.array(one)].transpose(2, 0, 1)[None] for one in maps]
    return lambda _: queue.pop(0)


@pytest.mark.parametrize("as_classes", [False, True])
def test_loss_is_counted_in_pixels_and_miou(as_classes: bool) -> None:
    image, labels = np.zeros((1, 3, 2, 2), np.uint8), torch.tensor([[0, 0], [1, 255]])
    runners: tuple[Any, Any] = (
        returns([[0, 0], [1, 1]], [[2, 2], [2, 2]]),
        returns([[0, 1], [1, 1]], [[2, 2], [2, 2]]),
    )
    if as_classes:
        runners = tuple((lambda given, run=run: run(given).argmax(1).astype(np.uint8)) for run in runners)
    items = [(image, labels), (image, torch.full((2, 2), 2))]
    loss = measure_loss(runners, iter(items), network(3), "x val", raw=True)
    assert (loss.images, loss.changed) == (2, 1 / 8)
    assert loss.miou == (1.0, pytest.approx((0.5 + 0.5 + 1) / 3))
    assert loss.points == pytest.approx(100 / 3)
    unlabelled = measure_loss(
        (returns([[0, 0], [1, 1]]), returns([[0, 1], [1, 1]])), iter([(image, None)]), network(3), "x", raw=True
    )
    assert (unlabelled.changed, unlabelled.miou, unlabelled.points) == (1 / 4, None, None)


def test_a_file_that_loses_more_than_the_limit_is_refused() -> None:
    lost = QuantizationLoss(10, "camvid val", 0.2, (0.5, 0.485))
    check_loss(lost, 1.6, None)  # with an mIoU, pixels do not decide
    with pytest.raises(RunError, match=r"loses 1\.50 points of mIoU, the limit is 1: 48\.50 % after 50\.00 % in float"):
        check_loss(lost, 1.0, None)
    with pytest.raises(RunError, match=r"another class than float to 20\.00 % of the pixels, the limit is 10 %"):
        check_loss(lost, 2.0, 0.1)
    unknown = QuantizationLoss(10, "DIR", 0.051, None)
    with pytest.raises(RunError, match=r"5\.10 % of the pixels, the limit is 5 %"):
        check_loss(unknown, 1.0, None)
    check_loss(unknown, 1.0, 0.06)
    with pytest.raises(RunError):
        check_loss(QuantizationLoss(10, "camvid val", 0.0, (float("nan"), 0.5)), 1.0, None)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("x.onnx", ["--calibration", "."], "--calibration is for an INT8 file, but --quantize is not given"),
        ("x.onnx", ["--max-loss", "2"], "--max-loss is for an INT8 file"),
        ("x.onnx", ["--weight-bits", "7"], "--weight-bits is for an INT8 file"),
        ("x.pt", ["--quantize", "int8", "--calibration", "."], "--quantize int8 writes ONNX files only"),
        ("x.onnx", ["--quantize", "int8"], "--quantize int8 needs images"),
        ("x.onnx", ["--quantize", "int8", "--calibration", "missing"], "`missing` is not a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(target: str, options: list[str], message: str, tmp_path: Path) -> None:
    outcome = rmrkd("export", tmp_path / "s.pth", tmp_path / target, *options)
    assert outcome.exit_code == 2
    assert outcome.message.startswith(message)


@pytest.fixture(scope="module")
def quantized(student: Path, camvid: Path) -> tuple[Path, dict[str, Any]]:
    """The INT8 file of a random network, and what the command reports."""
    target = student.with_name("student.int8.onnx")
    options = ("--quantize", "int8", "--calibration", camvid / "train", "--data-root", camvid, "--max-loss", 100)
    outcome = rmrkd("export", student, target, *options, "--json", "-")
    assert outcome.exit_code == 0, outcome.message
    return target, json.loads(outcome.stdout)


@pytest.mark.slow
def test_the_file_says_how_it_was_quantized(quantized: tuple[Path, dict[str, Any]], student: Path) -> None:
    path, report = quantized
    metadata = session(path).get_modelmeta().custom_metadata_map
    facts = json.loads(metadata["quantization"])
    assert facts == report["quantization"]
    assert facts["calibration"] == {"images": 3, "method": int8.METHOD}
    assert facts["measured"]["images"] == 4
    assert facts["measured"]["source"] == "camvid val"
    assert 0 < facts["measured"]["changed"] < 0.5
    assert set(facts["latency"]) == {"torch", "onnxruntime_float", "onnxruntime_int8"}
    assert facts["float_bytes"] > 2 * path.stat().st_size
    assert json.loads(metadata["classes"])[:2] == ["sky", "building"]
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Resize", "Sub"} <= kinds
    assert {entry.name for entry in path.parent.iterdir()} == {student.name, path.name}


@pytest.mark.slow
def test_compare_measures_the_file_as_export_did(
    quantized: tuple[Path, dict[str, Any]], student: Path, tiny: Path, tmp_path: Path
) -> None:
    path, report = quantized
    outcome = rmrkd("compare", student, path, "--preset", tiny, "--workers", 0, "--json", tmp_path / "c.json")
    assert outcome.exit_code == 0, outcome.message
    comparison = json.loads((tmp_path / "c.json").read_text())
    miou = report["quantization"]["measured"]["miou"]
    measured = [record["metrics"]["miou"] for record in comparison["results"]]
    assert measured == pytest.approx([miou["float"], miou["int8"]], abs=1e-3)
    sizes = [record["checkpoint_bytes"] for record in comparison["results"]]
    assert sizes == [student.stat().st_size, path.stat().st_size]
    assert all(record["latency"]["median_ms"] > 0 for record in comparison["results"])
    assert [group["label"] for group in comparison["groups"]] == ["distill student", "distill student.int8"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "refused"])
def test_other_inputs_and_outputs_and_a_refusal(kind: str, student: Path, camvid: Path, tmp_path: Path) -> None:
    options = ["--quantize", "int8", "--calibration", camvid / "train", "--input", "normalized", "--output", "classes"]
    options += ["--tolerance", 0.5] if kind == "classes" else ["--tolerance", 0]
    outcome = rmrkd("export", student, tmp_path / "x.onnx", *options)
    if kind == "refused":
        assert outcome.exit_code == 1
        assert "of the pixels, the limit is 0 %, on " in outcome.message
        assert list(tmp_path.iterdir()) == []
        return
    assert outcome.exit_code == 0, outcome.message
    image = np.random.default_rng(0).normal(size=(2, 3, 70, 50)).astype(np.float32)
    got = session(tmp_path / "x.onnx").run(None, {"image": image})[0]
    assert (got.shape, got.dtype) == ((2, 70, 50), np.uint8)
