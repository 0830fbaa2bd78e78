"""Networks of smp and transformers as teacher and student, through the commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.cli import rmrkd
from tests.helpers.resumed import assert_resumed_exactly

pytest.importorskip("segmentation_models_pytorch")
pytest.importorskip("transformers")

CLASSES = 11
PRESET = """
dataset: camvid
role: all
data: {{root: {root}, train_scale: [96, 64], eval_scale: [96, 64]}}
teacher: {teacher}
student: {student}
losses:
  rmrkd: {{type: rmrkd, stage: 2, weight: 1.0}}
  cwd: {{type: cwd, weight: 1.0}}
  kd: {{type: kd, weight: 1.0}}
schedule: {{iters: 4, crop: [48, 72], batch_size: 2, workers: 0, eval_interval: 2, checkpoint_interval: 2{schedule}}}
"""
ENCODER = "options: {encoder_name: tu-mobilenetv3_small_050}"
SEGFORMER = """library: transformers, name: SegformerForSemanticSegmentation, options: {
    depths: [1, 1, 1, 1], hidden_sizes: [8, 16, 24, 32], num_attention_heads: [1, 1, 1, 2], decoder_hidden_size: 16}"""
ADAMW = ", lr: 6.0e-5, optimizer: {type: AdamW, custom_keys: {norm: {decay_mult: 0}}}, warmup: {iters: 2}"
PAIRS = {
    "smp": (f"{{library: smp, name: FPN, {ENCODER}}}", f"{{library: smp, name: Unet, {ENCODER}}}", ""),
    "transformers": (f"{{{SEGFORMER}}}", f"{{{SEGFORMER}}}", ADAMW),
}


@pytest.fixture(scope="module", params=list(PAIRS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, camvid: Path) -> Path:
    """The work directory of a run of all roles; its name is that of the library."""
    teacher, student, schedule = PAIRS[request.param]
    work = tmp_path_factory.mktemp("runs") / request.param
    preset = work.with_suffix(".yaml")
    preset.write_text(PRESET.format(root=camvid, teacher=teacher, student=student, schedule=schedule))
    outcome = rmrkd("train", "--preset", preset, "--work-dir", work, "--device", "cpu", "--amp", "bf16")
    assert outcome.exit_code == 0, outcome.message
    return work


def test_a_student_is_evaluated_and_moved_from_its_file_alone(trained: Path, camvid: Path, tmp_path: Path) -> None:
    file, moved = trained / "distill" / "student.pth", tmp_path / "moved.pth"
    described = torch.load(file, weights_only=True)["meta"]["network"]
    assert (described["library"], described["num_classes"]) == (trained.name, CLASSES)
    assert rmrkd("transfer", trained / "distill" / "last.pth", moved).exit_code == 0
    for one in (file, moved):
        outcome = rmrkd("eval", one, "--device", "cpu", "--json", "-", "--data-root", camvid)
        assert outcome.exit_code == 0, outcome.message
        assert json.loads(outcome.stdout)["metrics"] == json.loads((file.parent / "result.json").read_text())["metrics"]
    outcome = rmrkd("predict", file, camvid / "val", "--out", tmp_path / "out", "--device", "cpu")
    assert outcome.exit_code == 0, outcome.message


def test_a_resumed_run_is_exact(trained: Path, tmp_path: Path) -> None:
    assert_resumed_exactly(trained, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4000}, "parameters|does not match"),
        ({"options": {"encoder_name": "tu-hf-hub:someone/model"}}, "has no model|has no option"),
        ({"options": {"name_or_path": "someone/model"}}, "has no option"),
        ({"maps": {"stage4": "a.b"}}, "has no module `a.b`"),
    ],
)
def test_a_hostile_description_is_refused(
    trained: Path, camvid: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    contents = torch.load(trained / "distill" / "student.pth", weights_only=True)
    contents["meta"]["network"] |= change
    torch.save(contents, tmp_path / "x.pth")
    outcome = rmrkd("eval", tmp_path / "x.pth", "--device", "cpu", "--data-root", camvid)
    assert outcome.exit_code == 2, outcome.message
    assert re.search(message, outcome.message), outcome.message


@pytest.mark.slow
def test_workers_train_a_network_with_layers_that_it_does_not_use(camvid: Path, tmp_path: Path) -> None:
    """PSPNet uses three of the encoder's five depths: without notice, workers would wait for the other gradients."""
    student = f"{{library: smp, name: PSPNet, {ENCODER}}}"
    preset = tmp_path / "preset.yaml"
    preset.write_text(PRESET.format(root=camvid, teacher=student, student=student, schedule=""))
    words = ("train", "--preset", preset, "--work-dir", tmp_path / "work", "--role", "baseline", "--max-iters", "2")
    outcome = rmrkd(*words, "--device", "cpu", "--gpus", "2")
    assert outcome.exit_code == 0, outcome.message


@pytest.mark.slow
def test_it_compares_and_exports(trained: Path, camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are compared with the network at other image sizes than that of the example."""
    monkeypatch.setattr("rmrkd_cli.evaluation.latency._MAX_ROUNDS", 2)
    files = [trained / role / "student.pth" for role in ("baseline", "distill")]
    outcome = rmrkd("compare", *files, "--device", "cpu", "--data-root", camvid)
    assert outcome.exit_code == 0, outcome.message
    # torch's exporter takes half a minute a network. The teacher is another architecture of smp.
    for name, network in (("x.onnx", files[1]), ("x.pt", files[1]), ("t.pt", trained / "teacher" / "student.pth")):
        outcome = rmrkd("export", network, tmp_path / name)
        assert outcome.exit_code == 0, outcome.message
