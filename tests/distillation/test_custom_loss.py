"""Losses of one's own: run where the command line names their file, and nowhere else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.distillation import custom_loss
from rmrkd_cli.distillation.custom_loss import load_class
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd

CODE = """
from pathlib import Path

from torch import nn

Path(__file__).with_name("ran").touch()


class Difference(nn.Module):
    def __init__(self, student_channels, teacher_channels, num_classes, power=2.0):
        super().__init__()
        self.layer = nn.Conv2d(student_channels, teacher_channels, 1)
        self.power = power

    def forward(self, student, teacher, labels):
        return (self.layer(student) - teacher).abs().pow(self.power).mean()


class TwoMaps(nn.Module):
    def forward(self, student, teacher, labels):
        return sum((s.mean((1, 2, 3)) - t.mean((1, 2, 3))).square().mean() for s, t in zip(student, teacher))


class Fails(nn.Module):
    def forward(self, student, teacher, labels):
        raise ValueError("no such map")


class Vector(nn.Module):
    def forward(self, student, teacher, labels):
        return student.mean((1, 2, 3))


class Constant(nn.Module):
    def forward(self, student, teacher, labels):
        return teacher.mean()


class Parts(nn.Module):
    def forward(self, student, teacher, labels):
        return {"": student.mean(), "other": student.mean()}


class Unready(nn.Module):
    def __init__(self):
        pass


class Leaves(nn.Module):
    def __init__(self):
        raise SystemExit(0)


class LeavesLater(nn.Module):
    def forward(self, student, teacher, labels):
        raise SystemExit(0)


class InPlace(nn.Module):
    def forward(self, student, teacher, labels):
        return student.mul_(0.5).mean()


class Labels(nn.Module):
    def forward(self, student, teacher, labels):
        labels.fill_(255)
        return student.mean()


class training(nn.Module):
    pass


class Resized(nn.Module):
    def __init__(self, on_logits, map_size="of the crop"):
        super().__init__()
        if on_logits is not True or map_size != 3:
            raise ValueError(f"{on_logits}, {map_size}")

    def forward(self, student, teacher, labels):
        return (student - teacher).square().mean()


def function():
    pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(CODE)
    return path


def rehearse(tiny: Path, *options: object) -> tuple[str, str]:
    """What is shown, and the message."""
    outcome = rmrkd("train", "--preset", tiny, "--role", "distill", "--dry-run", "--device", "cpu", *options)
    return outcome.stdout, outcome.message


def test_a_preset_alone_does_not_run_it(tiny: Path, file: Path, tmp_path: Path) -> None:
    named = f"losses={{own: {{type: '{file}:Difference', stage: head, options: {{power: 1.5}}}}}}"
    _, message = rehearse(tiny, "--set", named)
    assert "runs only if the command line names that file" in message
    _, message = rehearse(tiny, "--set", named, "--code", tmp_path / "another.py")
    assert "runs only if the command line names that file" in message
    rmrkd("train", "--preset", tiny, "--set", named, "--print-config")
    with pytest.raises(RmrkdError, match="runs only if the command line names it"):
        load_class(f"{file}:Difference", [])
    assert not (tmp_path / "ran").exists()
    shown, message = rehearse(tiny, "--set", named, "--code", file)
    assert (message, "loss own" in shown, (tmp_path / "ran").exists()) == ("", True, True)


def test_a_method_on_the_command_line_names_its_file(tiny: Path, file: Path) -> None:
    shown, message = rehearse(tiny, "--method", f"{file}:Difference", "--set", "losses.Difference.stage=3")
    assert message == ""
    assert "loss Difference" in shown
    assert "rmrkd" not in shown


def test_it_may_take_several_maps(tiny: Path, file: Path) -> None:
    shown, message = rehearse(tiny, "--method", f"{file}:TwoMaps", "--set", "losses.TwoMaps.stage=[4, logits, aux]")
    assert (message, "4, logits, aux" in shown) == ("", True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Diference", "did you mean `Difference`?"),
        ("function", "must be a subclass of `torch.nn.Module`"),
        ("Fails", "ValueError: no such map (line 26)"),
        ("Vector", "returned a tensor of shape (2,), it must return a scalar tensor"),
        ("Constant", "cannot compute a weight for loss `Constant`: its gradient norm at the start is 0"),
        ("Parts", 'returned ``, `other`, it must return "" and the names in its `extra_weights`'),
        ("Unready", "cannot be built with no options: AttributeError"),
        ("Leaves", "cannot be built with no options: SystemExit: 0"),
        ("LeavesLater", "failed: SystemExit: 0"),
        ("InPlace", "changes its inputs in place"),
        ("Labels", "changes its inputs in place"),
        ("training", "a loss cannot be called `training`"),
    ],
)
def test_what_is_wrong_with_it_is_told(tiny: Path, file: Path, name: str, told: str) -> None:
    assert told in rehearse(tiny, "--method", f"{file}:{name}")[1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_of_the_kind", "(line 1)"),
        ("a = (", "SyntaxError"),
        ("\0", ""),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (line 2)"),
    ],
)
def test_a_file_that_cannot_run_is_told(tiny: Path, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    message = rehearse(tiny, "--method", f"{path}:Loss")[1]
    assert "cannot be run" in message
    assert told in message


def test_options_that_it_does_not_take_are_told(tiny: Path, file: Path) -> None:
    own = f"losses={{own: {{type: '{file}:Difference', options: {{powr: 3}}}}}}"
    assert "unexpected keyword argument 'powr'" in rehearse(tiny, "--set", own, "--code", file)[1]


def test_an_option_of_its_own_takes_the_place_of_what_rmrkd_fills_in(tiny: Path, file: Path) -> None:
    own = f"losses={{own: {{type: '{file}:Resized', stage: logits, weight: 1, options: {{map_size: 3}}}}}}"
    assert rehearse(tiny, "--set", own, "--code", file)[1] == ""
    message = rehearse(tiny, "--set", own.replace(", options: {map_size: 3}", ""), "--code", file)[1]
    assert "cannot be built with no options: ValueError: True, (" in message


def test_it_trains_and_is_the_same_when_resumed(tiny: Path, file: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), method=f"{file}:Difference", overrides=["role=teacher", "schedule.iters=2"])
    work_dir, code = tmp_path / "runs", (str(file),)
    train(preset, work_dir, "cpu", Cluster(), code=code)
    preset = preset.model_copy(update={"role": "distill"})
    record = train(preset, work_dir, "cpu", Cluster(), code=code)[0]
    place = work_dir / "distill-Difference"
    assert record["training"]["weights"].keys() == {"Difference"}
    lines = (place / "log.jsonl").read_text().splitlines()
    assert "Difference" in json.loads(lines[0])["losses"]
    assert list(read_checkpoint(place / "last.pth").meta["sources"]["code"]) == [str(file)]
    assert "losses.Difference.layer.weight" in torch.load(place / "last.pth", weights_only=True)["state_dict"]
    assert not [key for key in torch.load(place / "student.pth", weights_only=True)["state_dict"] if "layer" in key[:9]]
    file.write_text(CODE.replace("square", "abs"))
    with pytest.raises(RmrkdError, match="was trained with other code"):  # finished: its result is not this code's
        train(preset, work_dir, "cpu", Cluster(), code=code, resume=True)
    (place / "result.json").unlink()
    with pytest.raises(RmrkdError, match="was trained with other code"):
        train(preset, work_dir, "cpu", Cluster(), code=code, resume=True)
    file.write_text(CODE)
    assert train(preset, work_dir, "cpu", Cluster(), code=code, resume=True)[0]["metrics"] == record["metrics"]


def test_ddp_lets_a_layer_have_no_part_in_the_loss(tmp_path: Path) -> None:
    """Of a group of one process: DDP looks at parameters alike, and refused the second step."""
    layers = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1)})
    layers.forward = lambda x: layers["used"](x).sum()  # type: ignore[method-assign]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        wrapped = DistContext(0, 2, torch.device("cpu")).wrap_ddp(layers, find_unused_parameters=True)
        for _ in range(2):
            wrapped(torch.ones(1, 2)).backward()
    finally:
        dist.destroy_process_group()
    assert [float(layers["used"].bias.grad), layers["idle"].bias.grad] == [2.0, None]


def test_the_recorded_hash_is_of_the_text_that_ran(tiny: Path, tmp_path: Path) -> None:
    """Also if the file changes while the networks are built."""
    file = tmp_path / "mine.py"
    text = CODE.replace('Path(__file__).with_name("ran").touch()', "")
    file.write_text(text)
    preset = load_preset(
        str(tiny), overrides=[f"losses={{mine: {{type: '{file}:Difference', stage: logits, weight: 1}}}}"]
    )
    custom_loss.load_class(f"{file}:Difference", [str(file)])
    file.write_text(text + "# changed\n")
    expected = {str(file): hashlib.sha256(text.encode()).hexdigest()}
    assert custom_loss.code_that_ran(preset, "distill")["code"] == expected != custom_loss.hashes(preset, [str(file)])
