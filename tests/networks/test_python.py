"""Networks from a Python file of the user: they run only where the command line names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks import libraries
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import measure_shapes
from rmrkd_cli.presets import user_code
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.network_schema import Network
from rmrkd_cli.training.network_check import check_networks
from tests.helpers.cli import rmrkd

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.last = nn.Conv2d(2 * width, num_classes, 1)
        self.auxiliary = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        first = self.body(images)
        deep = self.deep(first)
        return {"out": self.last(deep), "stage1": first, "aux": self.auxiliary(first)}

def build(num_classes, width=8):
    return Net(width, num_classes)

def only_logits(num_classes):
    return nn.Conv2d(3, num_classes, 3, 2, 1)

def pair(num_classes):
    class Pair(nn.Conv2d):
        def forward(self, images):
            return super().forward(images), None
    return Pair(3, num_classes, 1)

def wrong(num_classes):
    return nn.Conv2d(3, num_classes + 1, 1)

def text(num_classes):
    return "network"

def broken(num_classes):
    raise ValueError("no such layer")

def frozen(num_classes):
    return only_logits(num_classes).requires_grad_(False)

def empty(num_classes):
    return nn.Identity()

def failing(num_classes):
    class Failing(nn.Conv2d):
        def forward(self, images):
            raise KeyError("stride")
    return Failing(3, num_classes, 1)

def leaving(num_classes):
    class Leaving(nn.Conv2d):
        def forward(self, images):
            raise SystemExit(3)
    return Leaving(3, num_classes, 1)

def patches(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 14, 14), nn.BatchNorm2d(8), nn.Conv2d(8, num_classes, 1))

def named(num_classes):
    class Named(nn.Conv2d):
        def forward(self, images):
            return {"seg": super().forward(images)}
    return Named(3, num_classes, 1)
"""
PRESET = """
dataset: camvid
role: all
data: {{root: {root}, train_scale: [96, 64], eval_scale: [96, 64]}}
teacher: {{library: python, name: "{file}:build", options: {{width: 12}}, maps: {{stage4: deep}}}}
student: {{library: python, name: "{file}:build", maps: {{stage4: deep}}}}
losses:
  rmrkd: {{type: rmrkd, stage: 4, weight: 1.0}}
  kd: {{type: kd, weight: 1.0}}
schedule: {{iters: 4, crop: [48, 72], batch_size: 2, workers: 0, eval_interval: 2, checkpoint_interval: 2}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Any:
    path = tmp_path / "net.py"
    path.write_text(CODE)
    user_code.allow_files([str(path)])
    yield path
    user_code.allow_files([])


def build(file: Path, function: str, **keys: Any) -> nn.Module:
    spec = Network(library="python", name=f"{file}:{function}", **keys)
    return libraries.build_network(libraries.network_config(spec, 5), device="cpu")


def test_maps_come_from_the_output_and_from_modules(file: Path) -> None:
    network = build(file, "build", options={"width": 4}, maps={"stage4": "deep", "head": "last:input"})
    shapes = measure_shapes(network)
    assert shapes.channels == {1: 4, 4: 8, "head": 8, "logits": 5, "aux": 5}
    assert shapes.strides == {1: 4, 4: 8, "head": 8, "logits": 8, "aux": 4}
    losses = adapter_of(network).losses(
        network,
        adapter_of(network).maps(network, torch.randn(2, 3, 32, 32), auxiliary=True),
        torch.zeros(2, 1, 32, 32, dtype=torch.long),
    )
    assert set(losses) == {"ce", "aux_ce"}


@pytest.mark.parametrize(("function", "stride"), [("only_logits", 2), ("pair", 1)])
def test_logits_may_be_a_tensor_or_the_first_of_a_tuple(file: Path, function: str, stride: int) -> None:
    shapes = measure_shapes(build(file, function))
    assert (shapes.channels, shapes.strides) == ({"logits": 5}, {"logits": stride})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("biuld", r"has no function `biuld`; did you mean `build`\?"),
        ("text", "returns a str; expected is a `torch.nn.Module`"),
        ("broken", r"cannot be built: ValueError: no such layer \(line 36\)"),
    ],
)
def test_a_function_that_builds_no_network_is_explained(file: Path, function: str, message: str) -> None:
    with pytest.raises(RmrkdError, match=message):
        build(file, function)


def test_an_output_that_is_no_logits_is_explained(file: Path) -> None:
    message = r"returns a tensor \(1, 6, 64, 64\); expected are logits \(B, 5, h, w\)"
    with pytest.raises(RmrkdError, match=message):
        measure_shapes(build(file, "wrong"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("frozen", "the student cannot be trained: all its parameters are frozen"),
        ("empty", "the student cannot be trained: it has no parameters"),
        ("failing", r"the student cannot process images of 48x72: KeyError: 'stride' \(line \d+\)"),
        ("leaving", r"the student cannot be used: `.*net.py` failed: SystemExit: 3 \(line \d+\)"),
        ("named", r"the network of `.*net.py` returns a dict with the keys `seg`; expected are logits"),
    ],
)
def test_a_network_that_cannot_be_trained_is_explained(file: Path, function: str, message: str) -> None:
    path = file.with_name("preset.yaml")
    path.write_text(PRESET.format(root=file.parent, file=file))
    preset = load_preset(str(path), overrides=[f"student.name={file}:{function}", "student.maps={}"])
    with pytest.raises(RmrkdError, match=message) as caught:
        check_networks(preset, ["baseline"], 5, code=[str(file)])
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_file_that_the_command_line_does_not_name_does_not_run(file: Path) -> None:
    user_code.allow_files([])
    with pytest.raises(RmrkdError, match="runs only if the command line names that file") as error:
        build(file, "build")
    assert error.value.hint == f"check the file, then add --code {file}"
    with pytest.raises(RmrkdError, match=r"is named FILE.py:function, got `os:system`"):
        libraries.network_config(Network(library="python", name="os:system"), 5)


@pytest.mark.parametrize("crop", [(112, 112), (120, 232)])
def test_a_loss_gets_the_size_that_the_map_of_a_crop_has(
    file: Path, tiny: Path, tmp_path: Path, crop: tuple[int, int]
) -> None:
    """At a stride of 14, which is no power of two: 112 pixels are 8 positions."""
    own = tmp_path / "own.py"
    own.write_text(
        "from torch import nn\nclass Own(nn.Module):\n    def __init__(self, map_size):\n        super().__init__()\n"
        "        self.map_size = map_size\n    def forward(self, student, teacher, labels):\n"
        "        assert tuple(student.shape[2:]) == self.map_size\n        return (student - teacher).square().mean()\n"
    )
    network = {"library": "python", "name": f"{file}:patches", "maps": {"stage4": "1"}}
    losses = {"a": {"type": "cirkd_channel", "stage": 4, "weight": 1}, "b": {"type": f"{own}:Own", "stage": "logits"}}
    losses["b"]["weight"] = 1
    changes = {"teacher": network, "student": network, "losses": losses, "schedule.crop": list(crop)}
    preset = load_preset(str(tiny), overrides=[f"{key}={json.dumps(value)}" for key, value in changes.items()])
    outlines = check_networks(preset, ["distill"], 11, [str(own)])
    built = build_distiller(
        preset, "distill", 11, device="cpu", log=lambda _: None, with_weights=False, code=[str(own)]
    )
    size = (crop[0] // 14, crop[1] // 14)
    for loss in (*outlines.losses.values(), *built.distiller.losses.values()):
        assert loss.map_size == size
    values = built.distiller(torch.randn(2, 3, *crop), torch.zeros(2, 1, *crop, dtype=torch.long))
    assert values["a"].isfinite()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, camvid: Path) -> Path:
    """The folder of a preset, its file and its runs."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "net.py").write_text(CODE)
    (folder / "preset.yaml").write_text(PRESET.format(root=camvid, file=folder / "net.py"))
    words = ("train", "--preset", folder / "preset.yaml", "--work-dir", folder / "work", "--device", "cpu")
    outcome = rmrkd(*words)
    assert (outcome.exit_code, outcome.hint) == (2, f"check the file, then add --code {folder / 'net.py'}")
    outcome = rmrkd(*words, "--code", folder / "net.py")
    assert outcome.exit_code == 0, outcome.message
    return folder


def test_a_student_needs_its_file_and_its_code(trained: Path, camvid: Path, tmp_path: Path) -> None:
    student = trained / "work/distill/student.pth"
    described = torch.load(student, weights_only=True)["meta"]
    digest = user_code.hashes([str(trained / "net.py")])[str(trained / "net.py")]
    assert described["network"]["sha256"] == digest
    assert described["sources"]["code"] == {str(trained / "net.py"): digest}
    words = ("eval", student, "--device", "cpu", "--json", "-", "--data-root", camvid)
    assert "runs only if the command line names that file" in rmrkd(*words).message
    moved = shutil.copy(trained / "net.py", tmp_path / "moved.py")
    outcome = rmrkd(*words, "--code", moved)  # found by its text
    assert outcome.exit_code == 0, outcome.message
    assert json.loads(outcome.stdout)["metrics"] == json.loads((student.parent / "result.json").read_text())["metrics"]
    changed = tmp_path / "net.py"
    changed.write_text(CODE + "\n# changed\n")
    outcome = rmrkd(*words, "--code", changed)
    assert (outcome.exit_code, "another text of" in outcome.message) == (2, True)
    outcome = rmrkd("predict", student, camvid / "val", "--out", tmp_path / "o", "--device", "cpu", "--code", moved)
    assert outcome.exit_code == 0, outcome.message
    assert rmrkd("transfer", trained / "work/distill/last.pth", tmp_path / "t.pth").exit_code == 0


def test_a_changed_file_is_refused_on_resume(trained: Path, tmp_path: Path) -> None:
    file = trained / "net.py"
    words = ("train", "--preset", trained / "preset.yaml", "--work-dir", trained / "work", "--device", "cpu")
    assert rmrkd(*words, "--code", file, "--resume").exit_code == 0
    file.write_text(CODE + "\n# changed\n")
    try:
        for role in ("baseline", "distill"):
            outcome = rmrkd(*words, "--code", file, "--resume", "--role", role)
            assert (outcome.exit_code, "was trained with other code" in outcome.message) == (2, True), outcome.message
    finally:
        file.write_text(CODE)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["teacher", "distill"])
def test_teacher_and_student_are_measured_and_exported(
    trained: Path, camvid: Path, tmp_path: Path, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the preset that names the network; what is exported gives the network's classes."""
    monkeypatch.setattr("rmrkd_cli.evaluation.latency._MAX_ROUNDS", 2)
    file, code = trained / "work" / role / "student.pth", ("--code", trained / "net.py")
    measured = ("eval", file, "--device", "cpu", "--data-root", camvid, "--json", "-", *code)
    expected = json.loads((file.parent / "result.json").read_text())["matrix"]
    for preset in ([], ["--preset", trained / "preset.yaml"]):
        outcome = rmrkd(*measured, *preset)
        assert outcome.exit_code == 0, outcome.message
        assert json.loads(outcome.stdout)["matrix"] == expected
    for number, name in enumerate(("x.onnx", "x.pt")):
        outcome = rmrkd("export", file, tmp_path / name, *code)
        assert outcome.exit_code == 0, outcome.message
        outcome = rmrkd("predict", tmp_path / name, camvid / "val", "--out", tmp_path / str(number), "--device", "cpu")
        assert outcome.exit_code == 0, outcome.message
    assert "runs only if the command line names that file" in rmrkd("export", file, tmp_path / "y.onnx").message


@pytest.mark.slow
def test_teacher_and_student_are_compared_and_drawn(
    trained: Path, camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmrkd_cli.evaluation.latency._MAX_ROUNDS", 2)
    files = [trained / "work" / role / "student.pth" for role in ("teacher", "baseline", "distill")]
    words = ("compare", *files, "--device", "cpu", "--data-root", camvid, "--json", "-")
    assert "runs only if the command line names that file" in rmrkd(*words).message
    outcome = rmrkd(*words, "--code", trained / "net.py", "--report", tmp_path / "report")
    assert outcome.exit_code == 0, outcome.message
    results = json.loads(outcome.stdout)["results"]
    assert len(results) == 3
    assert all(result["latency"] and result["macs"] and result["parameters"] for result in results)
    assert list((tmp_path / "report").glob("**/*.html"))


def test_a_student_trains_from_the_stored_outputs_of_a_teacher(trained: Path, tmp_path: Path) -> None:
    code = ("--code", trained / "net.py")
    words = ("--preset", trained / "preset.yaml", "--teacher-checkpoint", trained / "work/teacher/student.pth")
    cache = ("cache-teacher", *words, "--out", tmp_path / "outputs", "--device", "cpu", "--workers", 0)
    assert "runs only if the command line names that file" in rmrkd(*cache).message
    outcome = rmrkd(*cache, *code)
    assert outcome.exit_code == 0, outcome.message
    outcome = rmrkd(
        "train", "--preset", trained / "preset.yaml", "--method", "kd", "--role", "distill", "--device", "cpu",
        "--teacher-outputs", tmp_path / "outputs", "--work-dir", tmp_path / "work", *code,
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.message
