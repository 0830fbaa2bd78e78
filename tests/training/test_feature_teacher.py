"""A foundation model as the teacher: its features train a student, first without labels, then the head with them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import Interrupted, RmrkdError
from rmrkd_cli.losses import LOSSES
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.loss_schema import loss_types
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.storage.cache import sha256_of
from rmrkd_cli.training.label_check import check_labels
from rmrkd_cli.training.network_check import check_networks
from rmrkd_cli.training.plan import plan_runs
from rmrkd_cli.training.preflight import check_feature_teacher
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd
from tests.helpers.foundation import write_dinov2
from tests.helpers.resumed import stop_in_step

pytest.importorskip("transformers")

CLASSES = 11
NONE = "data.train.labels=none"
FITNET = "losses={fitnet: {type: fitnet, stage: 4, weight: 1.0}}"
MGD = "losses={mgd: {type: mgd, mask_ratio: 0.0, weight: 2.0e-5}}"  # no random mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dinov2(tmp_path_factory.mktemp("models") / "dinov2")


def teacher_of(folder: Path | None, **keys: Any) -> str:
    """The change that puts the folder in place of a preset's teacher."""
    weights = {} if folder is None else {"weights": str(folder)}
    return "teacher=" + json.dumps({"library": "transformers", "name": "Dinov2Model", **weights, **keys})


def preset_of(tiny: Path | str, folder: Path | None, *overrides: str, method: str | None = "gkd") -> Preset:
    preset = load_preset(str(tiny), method=method, overrides=["role=distill", teacher_of(folder), *overrides])
    ((run,),) = plan_runs(preset, None)
    return run.preset


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("override", [None, FITNET, MGD])
def test_a_step_compares_the_student_with_the_teachers_resized_map(
    override: str | None, amp: str, tiny: Path, folder: Path, camvid: Path
) -> None:
    """Only the student and the loss get gradients; the teacher is in no state dict."""
    changes = [override, "method=fitnet"] if override else []
    preset = preset_of(tiny, folder, NONE, *changes, method=None if override else "gkd")
    info = dataset_info(preset)
    built = build_distiller(preset, "distill", CLASSES, device="cpu", log=lambda _: None, info=info)
    assert built.sources["teacher"]["sha256"] == sha256_of(folder / "model.safetensors")
    model = built.distiller.to_device("cpu", inference_network).train()
    assert model.teacher is not None
    assert not model.teacher.training
    (name,) = model.losses
    images, labels = torch.randn(2, 3, 48, 48), torch.full((2, 1, 48, 48), 255)
    if amp == "bf16":
        model.cast_teacher(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
        losses, maps = model.forward_with_features(images, labels)
        theirs = adapter_of(model.teacher).maps(model.teacher, images)[4]
        assert (theirs.shape[2:], maps[4].shape[2:]) == ((4, 4), (6, 6))
        resized = F.interpolate(theirs.float(), (6, 6), mode="bilinear", align_corners=False)
        expected = model.losses[name](maps[4], resized, labels)
    assert list(losses) == [name]
    torch.testing.assert_close(losses[name], expected, rtol=1e-6, atol=0)
    model.total(losses).backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    with_gradient = {key for key, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    assert {key.split(".")[0] for key in with_gradient} == {"student", "losses"}
    assert "student.backbone.stem.0.weight" in with_gradient
    assert not [key for key in with_gradient if "_head." in key]
    assert not [key for key in model.state_dict() if "teacher" in key or "encoder" in key]


@pytest.mark.parametrize("stage", [1, 4])
def test_every_loss_on_features_works(stage: int, tiny: Path, folder: Path, camvid: Path) -> None:
    """Those that read labels too, where there are some; `rmrkd` and `ifvd` compare classes of regions."""
    types = [kind for kind in loss_types() if "student_channels" in inspect.signature(LOSSES[kind]).parameters]
    types = [kind for kind in types if kind != "psd"]  # on several maps
    assert len(types) > 10
    options = {"ifvd": {"align": True}}
    losses = {kind: {"type": kind, "stage": stage, "weight": 1.0, **options.get(kind, {})} for kind in types}
    preset = preset_of(tiny, folder, f"losses={json.dumps(losses)}", method=None)
    check_networks(preset, ["distill"], CLASSES)
    model = build_distiller(preset, "distill", CLASSES, device="cpu", log=lambda _: None).distiller.train()
    values = model(torch.randn(2, 3, 48, 48), torch.randint(0, CLASSES, (2, 1, 48, 48)))
    assert set(types) < set(values)
    for kind in types:
        assert values[kind].isfinite(), kind
        gradient = torch.autograd.grad(values[kind], model.student.backbone.stem[0].weight, retain_graph=True)  # type: ignore[union-attr, index]
        assert gradient[0].isfinite().all(), kind


def losses_of(run_dir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


@pytest.mark.parametrize("method", ["gkd", pytest.param("fitnet", marks=pytest.mark.slow)])
def test_the_loss_falls_on_the_demo(method: str, folder: Path, tmp_path: Path) -> None:
    overrides = [
        "schedule.iters=20", "schedule.log_interval=1", "schedule.eval_interval=20", "schedule.workers=0", NONE,
        *([FITNET] if method == "fitnet" else []), *(["schedule.lr=0.2"] if method == "gkd" else []),
    ]  # fmt: skip
    preset = preset_of("demo", folder, *overrides, method=method)
    train(preset, tmp_path, "cpu", Cluster())
    values = [step[method] for step in losses_of(tmp_path / f"distill-{method}")]
    assert len(values) == 20
    assert sum(values[-3:]) < 0.8 * sum(values[:3])


@pytest.fixture(scope="module")
def phase_1(tiny: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run on features alone, by the commands of the documentation."""
    work = tmp_path_factory.mktemp("work")
    preset = work / "foundation.yaml"
    contents = yaml.safe_load(tiny.read_text()) | yaml.safe_load(teacher_of(None).replace("teacher=", "teacher: "))
    contents["schedule"] |= {"optimizer": {"type": "AdamW"}, "lr": 5e-4, "weight_decay": 0.05, "min_lr": 0.0}
    preset.write_text(yaml.safe_dump(contents))
    outcome = rmrkd(
        "train", "--preset", preset, "--role", "distill", "--method", "gkd", "--set", NONE, "--work-dir",
        work / "phase-1", "--device", "cpu", "--teacher-checkpoint", folder,
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.message
    return work / "phase-1" / "distill-gkd"


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "student.pth", weights_only=True)["state_dict"]


def test_features_are_trained_first_and_then_the_head(
    phase_1: Path, tiny: Path, folder: Path, camvid: Path, tmp_path: Path
) -> None:
    """The second phase starts from the first one's backbone, and does not change it; it needs no teacher."""
    assert [list(step) for step in losses_of(phase_1)] == [["gkd"]] * 4
    outcome = rmrkd(
        "train", "--preset", phase_1.parents[1] / "foundation.yaml", "--role", "baseline", "--work-dir",
        tmp_path / "phase-2", "--student-checkpoint", phase_1 / "student.pth", "--device", "cpu",
        "--set", teacher_of(tmp_path / "elsewhere"), "--set", "schedule.lr=1.0e-4",
        "--set", "schedule.optimizer.custom_keys={backbone: {lr_mult: 0}}",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.message
    run = tmp_path / "phase-2" / "baseline"
    first, second = weights(phase_1), weights(run)
    learned = {key for key in first if not torch.equal(first[key], second[key])}
    assert all("_head." in key or "running_" in key or "num_batches" in key for key in learned)
    assert any(key.startswith("decode_head.conv_seg") for key in learned)
    assert [list(step) for step in losses_of(run)] == [["ce", "aux_ce"]] * 4
    source = read_checkpoint(run / "student.pth").meta["sources"]["student"]
    assert source["sha256"] == sha256_of(phase_1 / "student.pth")


def test_a_student_of_the_first_phase_is_evaluated(phase_1: Path) -> None:
    outcome = rmrkd("eval", phase_1 / "student.pth", "--device", "cpu", "--json", "-")
    assert outcome.exit_code == 0, outcome.message
    record = json.loads((phase_1 / "result.json").read_text())
    assert json.loads(outcome.stdout)["matrix"] == record["matrix"]


def test_an_interrupted_run_gives_exactly_the_same_student(
    phase_1: Path,
    tiny: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    preset = preset_of(phase_1.parents[1] / "foundation.yaml", folder, NONE)
    stop_in_step(monkeypatch)
    with pytest.raises(Interrupted):
        train(preset, tmp_path, "cpu", Cluster())
    monkeypatch.undo()
    train(preset, tmp_path, "cpu", Cluster(), resume=True)
    run = tmp_path / "distill-gkd"
    line = "teacher: `Dinov2Model` gives feature maps and no classes, so it has no mIoU; no labels train the student's"
    assert caplog.text.count(line) == 1
    assert f"Train it next: --role baseline --student-checkpoint {run / 'student.pth'}, with labels" in caplog.text
    assert losses_of(run) == losses_of(phase_1)
    first, second = weights(phase_1), weights(run)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("overrides", [[NONE], ["schedule.amp=bf16"]])
def test_two_workers_train_with_and_without_labels(
    overrides: list[str], tiny: Path, folder: Path, tmp_path: Path
) -> None:
    (record,) = train(preset_of(tiny, folder, *overrides), tmp_path, "cpu", Cluster(workers=2))
    assert record["training"]["workers"] == 2
    steps = losses_of(tmp_path / "distill-gkd")
    assert all(("ce" in step) == (NONE not in overrides) and step["gkd"] > 0 for step in steps)
    assert all(value.isfinite().all() for value in weights(tmp_path / "distill-gkd").values())


def test_the_weight_auto_is_measured_against_the_labels(tiny: Path, folder: Path, camvid: Path, tmp_path: Path) -> None:
    """Also where some images have none: no label is the teacher's."""
    changes = [f"data.unlabelled={{images: {camvid / 'val'}}}", "data.labelled_share=0.5"]
    losses = "losses={mgd: {type: mgd, weight: auto}}"
    for number, overrides in enumerate(([], changes)):
        preset = preset_of(tiny, folder, losses, *overrides, method=None)
        (record,) = train(preset, tmp_path / str(number), "cpu", Cluster())
        assert 0 < record["training"]["weights"]["mgd"] < 1


def refusal(preset: Preset, *roles: str) -> RmrkdError:
    def check() -> None:
        check_labels(preset, roles or ["distill"])
        check_feature_teacher(preset, roles or ["distill"])
        check_networks(preset, roles or ["distill"], CLASSES)

    with pytest.raises(RmrkdError) as caught:
        check()
    return caught.value


def test_a_loss_on_logits_is_named(tiny: Path, folder: Path) -> None:
    error = refusal(preset_of(tiny, folder, method="kd"))
    assert error.message == "the teacher gives feature maps and no logits, which `kd` (logits) compares"
    assert error.hint == "choose a method on the stages: --method gkd, mgd"
    error = refusal(preset_of(tiny, folder, method="rmrkd"))
    assert "which `dkd` (logits) compares" in error.message
    assert "leave the losses on logits out: --set losses.dkd=null" in error.hint
    error = refusal(preset_of(tiny, folder, method="dsd"))
    assert "(aux, head, logits)" in error.message


def test_a_map_that_it_does_not_have_is_named(tiny: Path, folder: Path) -> None:
    error = refusal(preset_of(tiny, folder, "losses.kd=null", method="fitnet"))
    assert error.message == "loss `fitnet` at stage `head`: the teacher has no such map"
    assert error.hint.startswith("choose another: 1, 2, 3, 4; --set losses.fitnet.stage=4, or")
    placed = [teacher_of(folder, maps={"head": "layernorm"}), "losses.kd=null"]
    check_networks(preset_of(tiny, folder, *placed, method="fitnet"), ["distill"], CLASSES)


def test_what_needs_classes_of_the_teacher_is_refused(tiny: Path, folder: Path) -> None:
    for override in ("data.train.labels=teacher", "data.unlabelled={images: val, labels: teacher}"):
        error = refusal(preset_of(tiny, folder, override))
        assert "is `teacher`, and the teacher `Dinov2Model` gives feature maps: it predicts no class" in error.message
        assert f"--set {override.split('=')[0].removesuffix('.labels')}.labels=none" in error.hint
    error = refusal(preset_of(tiny, folder, NONE, method="mgd"))
    assert "the weight of `mgd` is `auto`" in error.message
    labelled = refusal(preset_of(tiny, folder, NONE, "losses={idd: {type: idd, weight: 1.0}}", method=None))
    assert labelled.message == "`idd` of method `rmrkd` needs labels, and `data.train.labels` is `none`"
    assert labelled.hint == "a method that needs none: --method gkd, mgd; or remove `data.train.labels`"
    mixed = ("data.unlabelled={images: val}", "losses={idd: {type: idd, weight: 1.0}}")
    labelled = refusal(preset_of(tiny, folder, *mixed, method=None))
    assert labelled.message == "`idd` of method `rmrkd` needs labels, and `data.unlabelled.labels` is `none`"
    fix = "--set data.unlabelled=null"
    assert labelled.hint.endswith(f"; or leave `data.unlabelled` out: {fix}")
    check_labels(preset_of(tiny, folder, *mixed, fix.removeprefix("--set "), method=None), ["distill"])
    assert "--set losses.mgd.weight=1" in error.hint


def test_it_is_not_trained_and_is_no_student(tiny: Path, folder: Path) -> None:
    error = refusal(preset_of(tiny, folder, "role=teacher"), "teacher")
    assert "the role `teacher` trains a segmentation network, and the teacher `Dinov2Model` gives" in error.message
    error = refusal(preset_of(tiny, None))
    assert "the teacher `Dinov2Model` needs `weights`" in error.message
    assert "--teacher-checkpoint dinov2-base" in error.hint
    with pytest.raises(RmrkdError, match=r"`student\.name: Dinov2Model` is for `teacher` only"):
        load_preset(str(tiny), overrides=["student={library: transformers, name: Dinov2Model}"])


def test_all_roles_train_the_baseline_and_the_student(tiny: Path, folder: Path) -> None:
    preset = load_preset(str(tiny), method="gkd", overrides=[teacher_of(folder)])
    ((baseline, distill),) = plan_runs(preset, None)
    assert [baseline.role, distill.role] == ["baseline", "distill"]


def test_its_logits_cannot_be_stored(tiny: Path, folder: Path, tmp_path: Path) -> None:
    outcome = rmrkd("cache-teacher", "--preset", tiny, "--out", tmp_path / "out", "--set", teacher_of(folder))
    assert outcome.exit_code == 2
    assert "`Dinov2Model`, gives no logits, which are what is stored" in outcome.message


def test_a_dry_run_describes_it(tiny: Path, folder: Path, tmp_path: Path) -> None:
    words = ("train", "--preset", tiny, "--role", "distill", "--method", "gkd", "--device", "cpu", "--dry-run")
    outcome = rmrkd(*words, "--set", NONE, "--set", teacher_of(folder), "--work-dir", tmp_path / "work")
    assert outcome.exit_code == 0, outcome.message
    assert "0.04 M parameters" in outcome.stdout
    assert "loss gkd" in outcome.stdout
    outcome = rmrkd(*words, "--set", NONE, "--set", teacher_of(tmp_path / "none"), "--work-dir", tmp_path / "work")
    assert outcome.exit_code == 2
    assert "does not exist; `weights` must be a folder on this machine" in outcome.message


def test_its_maps_are_listed() -> None:
    outcome = rmrkd("networks", "Dinov2Model", "--json", "-")
    assert outcome.exit_code == 0, outcome.message
    listing = json.loads(outcome.stdout)
    maps = [(each["map"], each["module"], each["channels"], each["stride"]) for each in listing["maps"]]
    assert maps == [(f"stage{n}", f"encoder.layer.{3 * n - 1}", 768, 14) for n in (1, 2, 3, 4)]
    modules = {each["module"]: (each["channels"], each["stride"]) for each in listing["modules"]}
    assert modules["encoder.layer.3"] == modules["embeddings.patch_embeddings.projection"] == (768, 14)
    assert modules["encoder.layer.3.mlp.fc1"] == (4 * 768, 14)
    assert "encoder" not in modules
