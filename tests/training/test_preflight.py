"""Everything that can be known is checked before the first step of the first role."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.distillation.factory import build_losses
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.feature_maps import measure_shapes
from rmrkd_cli.networks.libraries import build_network, build_outline, network_config
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import method_names
from rmrkd_cli.presets.network_schema import CheckpointSource, Network
from rmrkd_cli.training.network_check import check_networks
from rmrkd_cli.training.run import train
from rmrkd_cli.training.weight_files import download_weights, weight_files
from tests.helpers.cli import rmrkd

SEGFORMER = "teacher={config: segformer/segformer_mit-b0_512x512_160k_ade20k.py, init: scratch}"
ROLES = ["teacher", "baseline", "distill"]


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_maps_of_unequal_stride_stop_all_roles_before_the_first(tiny: Path, tmp_path: Path, dry_run: list[str]) -> None:
    options = ["--preset", tiny, "--role", "all", "--set", SEGFORMER, "--work-dir", tmp_path / "work"]
    outcome = rmrkd("train", *options, "--device", "cpu", *dry_run)
    assert outcome.exit_code == 2
    for loss in ("rmrkd", "mgd"):
        assert f"loss `{loss}` at stage 4: the student's map has stride 8, the teacher's 32" in outcome.message
    for fix in ("--method cwd", "--method kd", "stage: logits", "(1, 2)", "--set losses.mgd.stage=2"):
        assert fix in outcome.hint
    assert outcome.stdout == ""
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("method", ["cwd", "kd"])
def test_what_the_hint_names_works(tiny: Path, method: str) -> None:
    check_networks(load_preset(str(tiny), method=method, overrides=[SEGFORMER]), ROLES, 11)
    stages = [f"losses.{loss}.stage=2" for loss in ("rmrkd", "mgd")]
    check_networks(load_preset(str(tiny), overrides=[SEGFORMER, *stages]), ROLES, 11)


def test_outlines_have_the_shapes_of_networks_and_losses() -> None:
    preset = load_preset("demo")
    pair = []
    for spec in (preset.student, preset.teacher):
        config = network_config(spec, 8)
        real, outline = build_network(config, device="cpu"), build_outline(config)
        assert shapes_of(outline) == shapes_of(real)
        assert all(value.is_meta for value in outline.state_dict().values())
        with on_meta():
            pair.append(measure_shapes(outline))
        assert pair[-1] == measure_shapes(real)
    for method in method_names():
        changed = load_preset("demo", method=method)
        real_losses = build_losses(changed, *pair, 8)
        outlines = build_losses(changed, *pair, 8, outline=True)
        assert {n: shapes_of(x) for n, x in outlines.items()} == {n: shapes_of(x) for n, x in real_losses.items()}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", ["psp101-dl18-voc12aug", "dlp101-dlpmbv2-city", "dlp18w32-dlpmbv2x025-camvid"])
def test_shipped_presets_pass(name: str) -> None:
    preset = load_preset(name)
    check_networks(preset, ROLES, dataset_info(preset).num_classes)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("encnet/encnet_r50-d8_512x512_80k_ade20k.py", "the decode head `EncHead` returns 2 maps instead of one"),
        ("psanet/psanet_r50-d8_512x512_80k_ade20k.py", "compiled operator `psamask_forward`"),
        ("beit/upernet_beit-base_8x2_640x640_160k_ade20k.py", "the student cannot process crops of 48x48"),
    ],
)
def test_networks_that_cannot_be_trained_are_rejected(tiny: Path, config: str, told: str) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", f"student={{config: {config}}}"])
    with pytest.raises(RmrkdError) as caught:
        check_networks(preset, ["baseline"], 11)
    assert told in caught.value.message
    assert caught.value.hint


def test_maps_of_equal_stride_and_unequal_size_are_rejected() -> None:
    preset = load_preset("demo")
    network = build_outline(network_config(preset.student, 8))
    with on_meta():
        shapes, other = (measure_shapes(network, size) for size in ((96, 96), (100, 100)))
    assert shapes.strides == other.strides == {1: 4, 2: 8, 3: 8, 4: 8, "logits": 8, "head": 8, "aux": 8}
    with pytest.raises(RmrkdError, match="has 12x12 positions, the teacher's 13x13"):
        build_losses(preset, shapes, other, 8)


def test_a_damaged_teacher_of_an_earlier_run_and_one_of_other_classes_stop_the_command(
    tiny: Path, tmp_path: Path
) -> None:
    preset = load_preset(str(tiny), overrides=["role=all", "schedule.iters=2", "teacher.schedule={iters: 1}"])
    train(preset.model_copy(update={"role": "teacher"}), tmp_path, "cpu", Cluster())
    student = tmp_path / "teacher" / "student.pth"
    checkpoint = read_checkpoint(student)
    names = list(checkpoint.meta["CLASSES"])
    names[3], names[4] = names[4], names[3]
    torch.save({"meta": {"CLASSES": names}, "state_dict": checkpoint.state}, tmp_path / "other.pth")
    given = {"checkpoint": CheckpointSource(path=str(tmp_path / "other.pth"))}
    with pytest.raises(RmrkdError, match="classes have another order: class 3 is `pavement` in its checkpoint"):
        train(preset.model_copy(update={"teacher": preset.teacher.model_copy(update=given)}), tmp_path / "b", "cpu")
    student.write_bytes(student.read_bytes()[:-1000])
    with pytest.raises(RmrkdError, match=r"teacher/student\.pth` is (damaged|not a readable)"):
        train(preset, tmp_path, "cpu", Cluster(), resume=True)
    assert not (tmp_path / "baseline").exists()


def test_the_disk_must_hold_the_checkpoints_of_all_roles(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = load_preset(str(tiny), overrides=["role=all"])
    sizes = {what: bytes_of(getattr(preset, what)) for what in ("teacher", "student")}
    monkeypatch.setattr("rmrkd_cli.training.disk_check.shutil.disk_usage", lambda _: SimpleNamespace(free=10**7))
    monkeypatch.setattr("rmrkd_cli.training.preflight.quick_check", lambda *_, **__: 1 / 0)
    assert 10**7 < 3 * sum(sizes.values()) < 3 * 10**7  # weights, momentum, and the student
    with pytest.raises(
        RmrkdError, match=r"0\.01 GB free, the checkpoints of all runs need at least 0\.\d\d GB"
    ) as caught:
        train(preset, tmp_path / "work", "cpu", Cluster())
    assert "--work-dir" in caught.value.hint
    monkeypatch.setattr("rmrkd_cli.training.disk_check.shutil.disk_usage", lambda _: SimpleNamespace(free=3 * 10**7))
    with pytest.raises(ZeroDivisionError):
        train(preset, tmp_path / "work", "cpu", Cluster())
    assert "warning: " in capsys.readouterr().err


def bytes_of(spec: Network) -> int:
    state = build_outline(network_config(spec, 11)).state_dict()
    return sum(value.numel() * value.element_size() for value in state.values())


def test_all_missing_downloads_are_told_at_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "rmrkd_cli.networks.weights.zoo_url", lambda name: f"https://localhost:1/{name.rpartition('/')[2]}-00000000.pth"
    )
    imagenet = ["teacher.init=imagenet", "student.init=imagenet"]
    deep = "teacher.config=pspnet/pspnet_r101-d8_512x1024_40k_cityscapes.py"
    with pytest.raises(RmrkdError) as caught:
        download_weights(weight_files(load_preset(str(tiny), overrides=[*imagenet, deep]), ROLES))
    assert caught.value.message.startswith("cannot download 2 files:\n  https://localhost:1/resnet101_v1c-")
    assert "https://localhost:1/resnet18_v1c-00000000.pth (" in caught.value.message
    for fix in ("checkpoints/resnet101_v1c-00000000.pth`, `", "--teacher-checkpoint none", "--student-checkpoint none"):
        assert fix in caught.value.hint
    with pytest.raises(RmrkdError, match="cannot download https://localhost:1/resnet18_v1c"):
        download_weights(weight_files(load_preset(str(tiny), overrides=imagenet), ROLES))


def test_a_dry_run_first_tells_what_training_would_stop_on(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "distill").mkdir()
    (tmp_path / "distill" / "last.pth").touch()
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "distill", "--dry-run", "--device", "cpu",
        "--work-dir", tmp_path, "--data-root", tmp_path / "x",
    )  # fmt: skip
    assert outcome.exit_code == 0
    before, _, after = outcome.stdout.partition("\ndistill:\n")
    assert "training would stop: the teacher's checkpoint" in before
    assert f"training would stop: data root `{tmp_path / 'x'}` does not exist" in before
    assert "training would stop: `" in before
    assert "contains an unfinished run" in before
    assert "--resume" in before
    assert "step 2" in after
    assert "starts from       random weights" in after


def test_a_dry_run_says_that_a_teacher_starts_from_imagenet(tiny: Path, tmp_path: Path) -> None:
    """Not from weights of the data set in its config's name."""
    options = ["--role", "teacher", "--set", "teacher.init=imagenet", "--work-dir", tmp_path, "--device", "cpu"]
    outcome = rmrkd("train", "--preset", tiny, *options, "--dry-run")
    assert "starts from       ImageNet weights (backbone) and random weights (heads)" in outcome.stdout
    assert "training first downloads https://download.openmmlab.com/pretrain/third_party/resnet18_v1c" in outcome.stdout


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('no such map')", "failed: ValueError: no such map (line 6)"),
        ("return (student - teacher).mean()", "failed: RuntimeError: The size of tensor a (64)"),
        ("return student.mean((1, 2, 3))", "returned a tensor of shape (2,), it must return a scalar tensor"),
        ("return teacher.mean()", "because it does not depend on the student's map"),
    ],
)
def test_a_custom_loss_that_fails_stops_all_roles_before_the_first(
    tiny: Path, tmp_path: Path, body: str, told: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n\nclass Mine(nn.Module):\n    def forward(self, student, teacher, labels):\n"
        f"        {body}\n"
    )
    preset = load_preset(str(tiny), method=f"{file}:Mine")
    with pytest.raises(RmrkdError) as caught:
        train(preset, tmp_path / "work", "cpu", Cluster(), code=(str(file),))
    assert told in caught.value.message
    assert not (tmp_path / "work").exists()
