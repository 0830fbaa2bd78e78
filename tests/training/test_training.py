"""Training of all roles: the files of a run, interruption and resumption, evaluation and comparison of its results."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import Interrupted, RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training import trainer
from rmrkd_cli.training.run import train
from rmrkd_cli.training.validation import Validator
from rmrkd_cli.training.validation_images import ValidationImages
from tests.helpers.cli import rmrkd
from tests.helpers.resumed import stop_in_step


def run(tiny: Path, work_dir: Path, *overrides: str, resume: bool = False) -> list[dict]:
    return train(load_preset(str(tiny), overrides=overrides), work_dir, "cpu", Cluster(), resume=resume)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def log_of(path: Path) -> list[dict]:
    """Return the lines of a log without times and memory."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if "seconds" not in k and k not in ("elapsed", "peak_memory")} for line in lines
    ]


def losses_of(path: Path) -> list[dict]:
    return [{"iter": line["iter"], **line["losses"]} for line in log_of(path) if "losses" in line]


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all three roles with the command line."""
    work_dir = tmp_path_factory.mktemp("runs") / "tiny"
    outcome = rmrkd("train", "--preset", tiny, "--work-dir", work_dir, "--device", "cpu")
    assert outcome.exit_code == 0
    for landmark in ("teacher", "baseline", "distill", "distill - baseline"):
        assert landmark in outcome.stdout
    return work_dir


def test_every_role_writes_its_files(finished: Path) -> None:
    for role in ("teacher", "baseline", "distill"):
        names = {path.name for path in (finished / role).iterdir()}
        expected = {"config.yaml", "log.jsonl", "iter_4.pth", "last.pth", "best.pth", "student.pth", "result.json"}
        assert expected <= names
        lines = losses_of(finished / role / "log.jsonl")
        assert [line["iter"] for line in lines] == [1, 2, 3, 4]
        assert ("rmrkd" in lines[0]) == (role == "distill")


def test_the_log_contains_gradient_norm_and_training_time(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "distill" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "losses" in line]
    assert all(math.isfinite(line["gradient_norm"]) and line["gradient_norm"] > 0 for line in steps)
    elapsed = [line["elapsed"] for line in lines]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] > 0
    training = json.loads((finished / "distill" / "result.json").read_text())["training"]
    assert elapsed[-1] == pytest.approx(training["seconds"])
    assert training["time_budget"] is None


def test_tensorboard_contains_losses_norms_and_images(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "distill" / "tensorboard"), {"scalars": 0, "images": 0}).Reload()
    losses = ("ce", "aux_ce", "rmrkd", "mgd", "dkd")
    expected = {f"{kind}/{name}" for kind in ("loss", "weighted") for name in losses}
    expected |= {f"gradient_norm/{part}" for part in ("total", "backbone", "decode_head", "auxiliary_head", "losses")}
    expected |= {"weighted/total", "lr", "seconds_per_step", "data_seconds_per_step", "mIoU", "best mIoU"}
    assert set(events.Tags()["scalars"]) == expected
    norms = {name: events.Scalars(name)[0].value for name in expected if name.startswith("gradient_norm/")}
    total = norms.pop("gradient_norm/total")
    assert total == pytest.approx(math.hypot(*norms.values()), rel=1e-4)
    images = events.Tags()["images"]
    assert images == [f"validation/{number}" for number in range(4)]
    for name in images:
        logged = events.Images(name)
        assert [image.step for image in logged] == [2, 4]
        assert all((image.width, image.height) == (3 * 96, 64) for image in logged)


def test_validation_images_show_image_ground_truth_and_prediction(finished: Path, camvid: Path) -> None:
    """Ground truth in the data set's colours with ignored pixels black, and the prediction in the same colours."""
    info = dataset_info(load_preset(str(finished / "baseline" / "config.yaml")))
    samples = find_samples(info, "val")
    images = ValidationImages(info, samples, world_size=3)  # rank 0 has two images
    for index in range(len(samples)):
        images.add_prediction(index, torch.full((64, 96), index))
    assert list(images.sheets) == [samples[0].name, samples[3].name]
    sheet = images.sheets[samples[3].name]
    image, labels = SampleFiles(info, samples).pair(3)
    assert (sheet[:, :96] == image[..., ::-1]).all()
    colours = torch.tensor([*info.palette, *[(0, 0, 0)] * (256 - len(info.palette))])
    assert (sheet[:, 96:192] == colours[torch.from_numpy(labels).long()].numpy()).all()
    assert (sheet[:, 192:] == info.palette[3]).all()


def test_students_start_with_equal_weights_and_differ_after_distillation(finished: Path) -> None:
    baseline, distilled = (losses_of(finished / role / "log.jsonl")[0] for role in ("baseline", "distill"))
    assert baseline["ce"] == distilled["ce"]
    first, second = (weights(finished / role / "student.pth") for role in ("baseline", "distill"))
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("cache", "workers"), [("ram", 2), ("disk", 0)])
def test_the_image_cache_does_not_change_the_result(
    cache: str, workers: int, tiny: Path, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tiny, tmp_path, "role=baseline", f"data.cache={cache}", f"schedule.workers={workers}")
    assert "decoded training images: 0.00 GB in" in capfd.readouterr().err
    assert losses_of(tmp_path / "baseline" / "log.jsonl") == losses_of(finished / "baseline" / "log.jsonl")
    cached, plain = (weights(root / "baseline" / "student.pth") for root in (tmp_path, finished))
    assert all(torch.equal(cached[key], plain[key]) for key in plain)


def test_the_student_is_a_plain_mmseg_checkpoint_that_loads_with_weights_only(finished: Path) -> None:
    contents = torch.load(finished / "distill" / "student.pth", weights_only=True)
    assert {"backbone", "decode_head", "auxiliary_head"} == {key.split(".")[0] for key in contents["state_dict"]}
    meta = contents["meta"]
    assert len(meta["CLASSES"]) == len(meta["PALETTE"]) == 11
    assert meta["role"] == "distill"
    from mmcv import Config

    assert Config.fromstring(meta["config"], ".py").model.decode_head.num_classes == 11


def test_a_checkpoint_contains_student_and_losses_but_no_teacher(finished: Path) -> None:
    saved = read_checkpoint(finished / "distill" / "last.pth")
    assert {key.split(".")[0] for key in saved.state} == {"student", "losses"}
    assert saved.rest["iteration"] == 4
    assert len(saved.meta["sources"]["teacher"]["sha256"]) == 64


def test_training_with_the_written_configuration_gives_the_same_student(finished: Path, tmp_path: Path) -> None:
    again = load_preset(str(finished / "baseline" / "config.yaml"))
    assert again.role == "baseline"
    train(again, tmp_path, "cpu")
    first, second = weights(finished / "baseline" / "student.pth"), weights(tmp_path / "baseline" / "student.pth")
    assert all(torch.equal(first[key], second[key]) for key in first)


def stop_in_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM in the first validation, after two steps."""
    count = Validator.count

    def stopped(self: Validator, network: object, samples: object, title: str, *rest: object, **more: object) -> object:
        if title == "validation":
            os.kill(os.getpid(), signal.SIGTERM)
        return count(self, network, samples, title, *rest, **more)

    monkeypatch.setattr(Validator, "count", stopped)


def stop_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop between the last checkpoint and the student's file."""

    def stopped(*_: object) -> None:
        raise Interrupted(signal.SIGTERM, "killed")

    monkeypatch.setattr(trainer.Trainer, "finish", stopped)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop", [stop_in_step, stop_in_validation, stop_at_the_end])
def test_an_interrupted_run_gives_exactly_the_same_result(
    finished: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[pytest.MonkeyPatch], None],
    workers: int,
) -> None:
    teacher = f"teacher.checkpoint={{path: {finished}/teacher/student.pth}}"
    overrides = ("role=distill", f"schedule.workers={workers}", teacher)
    stop(monkeypatch)
    with pytest.raises(Interrupted) as stopped:
        run(tiny, tmp_path, *overrides)
    assert stopped.value.exit_code == 143
    monkeypatch.undo()
    run(tiny, tmp_path, *overrides, resume=True)
    first, second = weights(finished / "distill" / "student.pth"), weights(tmp_path / "distill" / "student.pth")
    assert all(torch.equal(first[key], second[key]) for key in first)
    logs = [log_of(path / "distill" / "log.jsonl") for path in (finished, tmp_path)]
    assert logs[0] == logs[1]


def test_bfloat16_autocast_trains(tiny: Path, finished: Path, tmp_path: Path) -> None:
    run(tiny, tmp_path, "role=baseline", "schedule.amp=bf16", "schedule.iters=2")
    exact, mixed = (losses_of(path / "baseline" / "log.jsonl")[0]["ce"] for path in (finished, tmp_path))
    assert exact != mixed
    assert abs(exact - mixed) < 0.05 * exact


def test_a_finished_run_is_neither_overwritten_nor_trained_again(finished: Path, tiny: Path) -> None:
    before = (finished / "baseline" / "student.pth").stat().st_mtime_ns
    with pytest.raises(RmrkdError, match="finished run"):
        run(tiny, finished, "role=baseline")
    run(tiny, finished, "role=baseline", resume=True)
    assert (finished / "baseline" / "student.pth").stat().st_mtime_ns == before


def test_resuming_with_other_settings_is_rejected_by_name(finished: Path, tiny: Path) -> None:
    with pytest.raises(RmrkdError, match=r"schedule\.lr: 0\.01 in the run, 0\.5 now"):
        run(tiny, finished, "role=baseline", "schedule.lr=0.5", resume=True)


def test_a_nonfinite_loss_stops_the_run_and_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match=r"loss `\w+` is (nan|inf)") as failure:
        run(tiny, tmp_path, "role=baseline", "schedule.lr=1.0e30", "schedule.min_lr=0")
    assert failure.value.exit_code == 1


def test_eval_without_a_checkpoint_finds_the_trained_students(finished: Path) -> None:
    outcome = rmrkd("eval", "--dataset", "camvid", "--work-root", finished.parent, "--json", "-", "--device", "cpu")
    records = json.loads(outcome.stdout)
    assert sorted(record["role"] for record in records) == ["baseline", "distill", "teacher"]
    for record in records:
        trained = json.loads((finished / record["role"] / "result.json").read_text())
        assert record["matrix"] == trained["matrix"]
        assert record["evaluation"] == trained["evaluation"]
        assert record["evaluation"]["tf32"] is None


def test_compare_shows_classes_differences_and_cost(finished: Path, tmp_path: Path) -> None:
    students = [finished / role / "student.pth" for role in ("teacher", "baseline", "distill")]
    outcome = rmrkd("compare", *students, "--device", "cpu", "--report", tmp_path / "report")
    assert outcome.exit_code == 0
    for landmark in ("distill - baseline", "mean IoU", "bicyclist", "MACs", "latency", "s/step"):
        assert landmark in outcome.stdout
    files = [path.relative_to(tmp_path / "report").as_posix() for path in (tmp_path / "report").rglob("*.*")]
    tables = {"index.html", "results.json", *(f"{name}.csv" for name in ("classes", "summary", "curves"))}
    assert tables | {"classes.png", "curves.png", "confusion-distill.csv", "confusion-distill.png"} <= set(files)
    assert len([file for file in files if file.startswith("pictures/")]) == 4  # all images
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count('<figure class="example"') == page.count('<div class="slider"') == 4
    assert "Not shown" not in page
    assert "no curves" not in page


def test_results_of_several_checkpoints_in_one_file_are_compared(finished: Path, tmp_path: Path) -> None:
    """Nothing has to be measured twice: what training cost is there as well."""
    students = [finished / role / "student.pth" for role in ("baseline", "distill")]
    assert rmrkd("eval", *students, "--device", "cpu", "--json", tmp_path / "both.json").exit_code == 0
    outcome = rmrkd("compare", tmp_path / "both.json", finished / "teacher" / "result.json", "--json", "-")
    document = json.loads(outcome.stdout)
    assert [made["label"] for made in document["groups"]] == ["baseline", "distill", "teacher"]
    assert document["equality"][0].startswith("equal iterations: 4 of 2 images")
    alone = json.loads(rmrkd("compare", tmp_path / "both.json", "--json", "-").stdout)
    assert alone["differences"] == document["differences"]


def test_what_lies_beside_a_copied_student_is_not_its_own(finished: Path, tmp_path: Path) -> None:
    """A result of another file says nothing of its training, and one that cannot be read hinders nothing."""
    student = shutil.copy(finished / "baseline" / "student.pth", tmp_path)
    for text in ((finished / "distill" / "result.json").read_text(), "{"):
        (tmp_path / "result.json").write_text(text)
        assert "training" not in json.loads(rmrkd("eval", student, "--json", "-", "--device", "cpu").stdout)
    shutil.copy(finished / "distill" / "result.json", tmp_path)
    trained = finished / "baseline" / "result.json"
    (other, own) = json.loads(rmrkd("compare", tmp_path / "result.json", trained, "--json", "-").stdout)["results"]
    assert "latency" not in other  # its network is not the file of that name
    assert "latency" in own


def test_predictions_are_written_with_the_palette(finished: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "out"
    student = finished / "distill" / "student.pth"
    rmrkd(
        "eval",
        student,
        "--save-predictions",
        folder,
        "--max-images",
        2,
        "--device",
        "cpu",
        "--flip",
        "--scales",
        "0.5,1",
    )
    with Image.open(folder / "0.png") as picture:
        assert picture.mode == "P"
        assert picture.size == (96, 64)
        assert picture.getpalette()[:3] == [128, 128, 128]
    assert len(list(folder.iterdir())) == 2
