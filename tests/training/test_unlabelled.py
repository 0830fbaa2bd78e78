"""Training on images without label maps: what is trained, logged and recorded, and that it resumes exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rmrkd_cli.checkpoints.run_checkpoints import RunCheckpoints
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import Interrupted, RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd
from tests.helpers.resumed import stop_in_step

NONE = ("data.train.labels=none",)
TEACHER = ("data.train.labels=teacher",)


@pytest.fixture(scope="module")
def teacher(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained teacher, whose validation result is beside it."""
    work_dir = tmp_path_factory.mktemp("teacher")
    train(load_preset(str(tiny), overrides=["role=teacher"]), work_dir, "cpu", Cluster())
    return work_dir / "teacher" / "student.pth"


@pytest.fixture(scope="module")
def more(camvid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six unlabelled images."""
    folder = tmp_path_factory.mktemp("more")
    for number in range(6):
        shutil.copy(camvid / ("train" if number < 3 else "val") / f"{number % 3}.png", folder / f"{number}.png")
    return folder


def distill(
    tiny: Path, teacher: Path, work_dir: Path, *overrides: str, method: str = "kd", workers: int = 1, **options: object
) -> tuple[dict, list[dict], Path]:
    """Train a student; return its record, the losses of its steps, and its directory."""
    changes = ["role=distill", f"teacher.checkpoint={{path: {teacher}}}", *overrides]
    preset = load_preset(str(tiny), method=method, overrides=changes)
    (record,) = train(preset, work_dir, "cpu", Cluster(workers=workers), **options)  # type: ignore[arg-type]
    run_dir = next(path for path in work_dir.iterdir() if path.name.startswith("distill"))
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return record, [line["losses"] for line in lines if "losses" in line], run_dir


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "student.pth", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def from_teacher_alone(tiny: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, losses, run_dir = distill(tiny, teacher, tmp_path_factory.mktemp("none"), *NONE)
    assert [list(step) for step in losses] == [["kd"]] * 4
    return run_dir


def test_a_student_is_trained_from_the_teacher_alone(
    from_teacher_alone: Path, teacher: Path, tiny: Path, tmp_path: Path, camvid: Path
) -> None:
    """Its label maps are never opened; the student's file evaluates as any other."""
    root = shutil.copytree(camvid, tmp_path / "camvid")
    shutil.rmtree(root / "trainannot")
    _, _, other = distill(tiny, teacher, tmp_path / "work", *NONE, f"data.root={root}")
    first, second = weights(from_teacher_alone), weights(other)
    assert all(torch.equal(first[key], second[key]) for key in first)
    outcome = rmrkd("eval", from_teacher_alone / "student.pth", "--device", "cpu", "--json", "-")
    record = json.loads((from_teacher_alone / "result.json").read_text())
    assert json.loads(outcome.stdout)["matrix"] == record["matrix"]
    refused = rmrkd("eval", from_teacher_alone / "student.pth", "--device", "cpu", "--split", "train")
    assert refused.exit_code == 2
    assert "the split `train` has no label maps in the preset" in refused.message


def test_the_weight_auto_is_measured_with_the_teachers_prediction(from_teacher_alone: Path) -> None:
    training = json.loads((from_teacher_alone / "result.json").read_text())["training"]
    assert 0 < training["weights"]["kd"] < 1e6


def test_results_and_checkpoints_say_how_the_student_was_trained(
    from_teacher_alone: Path, tiny: Path, teacher: Path, more: Path, tmp_path: Path
) -> None:
    meta = torch.load(from_teacher_alone / "student.pth", weights_only=True)["meta"]
    assert meta["training_images"] == {
        "labelled_images": 0, "unlabelled_images": 4, "unlabelled_labels": "none", "label_threshold": None,
    }  # fmt: skip
    both = (f"data.unlabelled={{images: {more}, labels: teacher}}", "data.label_threshold=0.2")
    record, _, run_dir = distill(tiny, teacher, tmp_path, *both)
    assert {key: record["training"][key] for key in meta["training_images"]} == {
        "labelled_images": 4, "unlabelled_images": 6, "unlabelled_labels": "teacher", "label_threshold": 0.2,
    }  # fmt: skip
    files = [from_teacher_alone / "result.json", run_dir / "result.json"]
    document = json.loads(rmrkd("compare", *files, "--json", "-").stdout)
    labels = [group["label"] for group in document["groups"]]
    assert document["equality"][-1] == (
        f"trained: {labels[0]} on 4 images without labels, from the teacher alone; "
        f"{labels[1]} on 4 labelled and 6 unlabelled images labelled by the teacher from a probability of 0.2 on"
    )


@pytest.mark.parametrize("overrides", [NONE, ("data.labelled_share=0.3",), (*TEACHER, "data.label_threshold=0.2")])
def test_an_interrupted_run_gives_exactly_the_same_student(
    overrides: tuple[str, ...], tiny: Path, teacher: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "labels" not in overrides[0]:
        overrides = (*overrides, f"data.unlabelled={{images: {more}}}")
    _, losses, whole = distill(tiny, teacher, tmp_path / "whole", *overrides)
    stop_in_step(monkeypatch)
    with pytest.raises(Interrupted):
        distill(tiny, teacher, tmp_path / "parts", *overrides)
    monkeypatch.undo()
    _, resumed, parts = distill(tiny, teacher, tmp_path / "parts", *overrides, resume=True)
    assert losses == resumed
    first, second = weights(whole), weights(parts)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_other_unlabelled_images_are_not_resumed_with(tiny: Path, teacher: Path, more: Path, tmp_path: Path) -> None:
    """The order of the images depends on their number."""
    folder = shutil.copytree(more, tmp_path / "more")
    overrides = (f"data.unlabelled={{images: {folder}}}",)
    _, _, run_dir = distill(tiny, teacher, tmp_path / "work", *overrides)
    shutil.copy(folder / "0.png", folder / "new.png")
    (run_dir / "student.pth").unlink()
    with pytest.raises(RmrkdError, match="4 labelled and 6 unlabelled images") as caught:
        distill(tiny, teacher, tmp_path / "work", *overrides, resume=True)
    assert "not on 4 labelled and 7" in caught.value.message
    assert "--fresh" in caught.value.hint
    (folder / "0.png").unlink()  # as many as before
    with pytest.raises(RmrkdError, match="the names of the training images are not those") as caught:
        distill(tiny, teacher, tmp_path / "work", *overrides, resume=True)
    assert "--fresh" in caught.value.hint
    write_without_names(run_dir / "last.pth")
    distill(tiny, teacher, tmp_path / "work", *overrides, resume=True)
    assert (run_dir / "student.pth").is_file()


def write_without_names(path: Path) -> None:
    """Leave a run with one checkpoint, which has no fingerprint of the names, as earlier versions wrote them."""
    contents = torch.load(path, weights_only=True)
    del contents["meta"]["image_names"]
    checkpoints = RunCheckpoints(path.parent)
    for file in path.parent.glob("*.pth"):
        file.unlink()
    checkpoints.save(contents, contents["iteration"], best=False, keep=1)


def test_labelled_and_unlabelled_images_are_trained_on_together(
    tiny: Path, teacher: Path, more: Path, tmp_path: Path
) -> None:
    """With a share of a half, each batch of two has one labelled image; with nearly none, cross-entropy is 0."""
    unlabelled = f"data.unlabelled={{images: {more}}}"
    _, halves, _ = distill(tiny, teacher, tmp_path / "half", unlabelled, "data.labelled_share=0.5")
    assert all(step["ce"] > 0 for step in halves)
    _, few, _ = distill(tiny, teacher, tmp_path / "few", unlabelled, "data.labelled_share=0.01")
    assert [step["ce"] for step in few] == [step["aux_ce"] for step in few] == [0.0] * 4
    assert all(step["kd"] > 0 for step in few)


def test_a_method_that_needs_labels_takes_the_teachers(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    _, losses, _ = distill(tiny, teacher, tmp_path, *TEACHER, method="rmrkd")
    assert all(step.keys() == {"ce", "aux_ce", "rmrkd", "mgd", "dkd"} for step in losses)
    assert all(step["ce"] > 0 and step["rmrkd"] > 0 for step in losses)


def test_only_the_teachers_prediction_can_train_without_any_loss(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    _, losses, _ = distill(tiny, teacher, tmp_path, *TEACHER, "losses={}", method="rmrkd")
    assert [list(step) for step in losses] == [["ce", "aux_ce"]] * 4


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("overrides", [NONE, ("data.labelled_share=0.25",)])
def test_two_workers_train_without_labels(
    overrides: tuple[str, ...], tiny: Path, teacher: Path, more: Path, tmp_path: Path
) -> None:
    """Auxiliary heads without a gradient, and a worker whose batch has no labels, stop no other worker."""
    if overrides != NONE:
        overrides = (*overrides, f"data.unlabelled={{images: {more}}}")
    record, losses, run_dir = distill(tiny, teacher, tmp_path, *overrides, "schedule.iters=2", workers=2)
    assert record["training"]["workers"] == 2
    assert all(("ce" in step) == (overrides != NONE) for step in losses)
    assert all(value.isfinite().all() for value in weights(run_dir).values())


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_method_that_needs_labels_is_refused_before_anything_starts(
    dry_run: list[str], tiny: Path, teacher: Path, tmp_path: Path
) -> None:
    options = ["--preset", tiny, "--role", "distill", "--teacher-checkpoint", teacher, "--device", "cpu"]
    outcome = rmrkd("train", *options, "--set", NONE[0], "--work-dir", tmp_path / "work", *dry_run)
    assert outcome.exit_code == 2
    assert "`rmrkd` and `dkd` of method `rmrkd` need labels, and `data.train.labels` is `none`" in outcome.message
    for fix in ("--method af-dcd, at, cirkd-channel, cirkd-mini-batch, cwd,", "--set data.train.labels=teacher"):
        assert fix in outcome.hint
    assert not (tmp_path / "work").exists()


def test_a_dry_run_says_what_is_trained_on(tiny: Path, teacher: Path, more: Path, tmp_path: Path) -> None:
    options = ["--preset", tiny, "--role", "distill", "--teacher-checkpoint", teacher, "--device", "cpu"]
    images = f"data.unlabelled={{images: {more}}}"
    outcome = rmrkd("train", *options, "--method", "kd", "--dry-run", "--set", images, "--work-dir", tmp_path)
    assert "training images   4 labelled and 6 unlabelled images without labels" in outcome.stdout
    assert "  losses            ce " in outcome.stdout
    alone = rmrkd("train", *options, "--method", "kd", "--dry-run", "--set", NONE[0], "--work-dir", tmp_path)
    assert "training images   4 images without labels, from the teacher alone" in alone.stdout
    assert "  losses            kd " in alone.stdout


def test_a_baseline_beside_unlabelled_images_is_the_one_without_them(tiny: Path, more: Path, tmp_path: Path) -> None:
    students = []
    added = ["role=baseline", f"data.unlabelled={{images: {more}}}"]
    for number, overrides in enumerate([["role=baseline"], added]):
        train(load_preset(str(tiny), overrides=overrides), tmp_path / str(number), "cpu", Cluster())
        students.append(weights(tmp_path / str(number) / "baseline"))
    assert all(torch.equal(students[0][key], students[1][key]) for key in students[0])
    train(load_preset(str(tiny), overrides=added), tmp_path / "0", "cpu", Cluster(), resume=True)  # the finished one


@pytest.mark.parametrize("overrides", [NONE, (*TEACHER, "losses={}")])
def test_stored_outputs_of_the_teacher_train_without_labels(
    overrides: tuple[str, ...], tiny: Path, teacher: Path, more: Path, tmp_path: Path
) -> None:
    """Of the unlabelled images too; the teacher's file is not needed any more."""
    labels = overrides[0].partition("=")[2]
    images = f"data.unlabelled={{images: {more}, labels: {labels}}}"
    options = ["--preset", tiny, "--teacher-checkpoint", teacher, "--out", tmp_path / "outputs", "--set", overrides[0]]
    options += ["--set", f"data.unlabelled.labels={labels}"]
    outcome = rmrkd("cache-teacher", *options, "--unlabelled", more, "--device", "cpu", "--workers", 0)
    assert outcome.exit_code == 0, outcome.message
    changes = ["role=distill", f"teacher.outputs={tmp_path / 'outputs'}", images, *overrides]
    preset = load_preset(str(tiny), method="kd" if overrides == NONE else None, overrides=changes)
    (record,) = train(preset, tmp_path / "work", "cpu", Cluster())
    assert record["training"]["unlabelled_images"] == 10
    (log,) = (tmp_path / "work").glob("distill*/log.jsonl")
    steps = [json.loads(line)["losses"] for line in log.read_text().splitlines() if "losses" in line]
    assert all(list(step) == (["kd"] if overrides == NONE else ["ce", "aux_ce"]) for step in steps)
