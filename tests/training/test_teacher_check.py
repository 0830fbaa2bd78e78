"""The teacher's mIoU is measured before training, and one below the minimum stops the command."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from rmrkd_cli.data.samples import Sample
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from rmrkd_cli.training.teacher_check import MAX_IMAGES, check_teacher_score, choose_images, reported_miou
from tests.helpers.cli import rmrkd


@pytest.fixture(scope="module")
def teacher(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a teacher for one step; `result.json` lies beside it."""
    work = tmp_path_factory.mktemp("teacher")
    train(load_preset(str(tiny), overrides=["role=teacher", "teacher.schedule.iters=1"]), work, "cpu", Cluster())
    return work / "teacher" / "student.pth"


def distill(tiny: Path, work: Path, file: Path, *options: object) -> tuple[int, str]:
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "distill", "--max-iters", 2, "--work-dir", work, "--device", "cpu",
        "--teacher-checkpoint", file, *options,
    )  # fmt: skip
    return outcome.exit_code, outcome.message


def test_its_miou_is_printed(tiny: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(teacher.with_name("result.json").read_text())
    miou = 100 * result["metrics"]["miou"]
    train(
        load_preset(str(tiny), overrides=["role=distill", f"teacher.checkpoint={{path: {teacher}}}"]),
        tmp_path, "cpu", Cluster(),
    )  # fmt: skip
    err = capsys.readouterr().err
    assert f"teacher: mIoU {miou:.2f} on 4 of 4 validation images, {miou:.2f} reported by its source" in err


@pytest.mark.parametrize("option", [("--min-teacher-miou", 90), ("--set", "teacher.reported_miou=100")], ids=str)
def test_below_the_minimum_nothing_is_trained_or_written(
    option: tuple[str, object], tiny: Path, teacher: Path, tmp_path: Path
) -> None:
    alone = shutil.copy(teacher, tmp_path / "alone.pth")
    code, message = distill(tiny, tmp_path / "work", alone, *option)
    assert code == 2
    assert "the teacher has mIoU" in message
    assert "below the minimum of 90.00 (--min-teacher-miou)" in message or "half of the reported 100.00" in message
    assert {path.name for path in (tmp_path / "work" / "distill").iterdir()} == {"config.yaml"}
    assert distill(tiny, tmp_path / "work", alone, "--min-teacher-miou", 0)[0] == 0


def test_with_role_all_it_is_measured_before_the_baseline(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    overrides = ["role=all", f"teacher.checkpoint={{path: {teacher}}}", "teacher.min_miou=95"]
    with pytest.raises(RmrkdError, match="the teacher has mIoU"):
        train(load_preset(str(tiny), overrides=overrides), tmp_path, "cpu", Cluster())
    assert not list(tmp_path.rglob("*.pth"))


def test_the_reported_miou_belongs_to_one_file(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    """The preset's figure does not apply to another file, nor to another data set."""
    city = load_preset("psp101-psp18-city")
    assert reported_miou(city) == 78.34
    config = rmrkd(
        "train", "--preset", "psp101-psp18-city", "--teacher-checkpoint", teacher, "--print-config"
    ).stdout  # fmt: skip
    assert "reported_miou" not in config
    given = load_preset("psp101-psp18-city", overrides=["teacher.reported_miou=null"])
    source = load_preset(str(tiny), overrides=[f"teacher.checkpoint={{path: {teacher}}}"]).teacher.checkpoint
    other = given.model_copy(update={"teacher": given.teacher.model_copy(update={"checkpoint": source})})
    assert reported_miou(other) is None


def test_images_are_evenly_spaced() -> None:
    samples = [Sample(str(number), Path(), Path()) for number in range(500)]
    picked = [int(sample.name) for sample in choose_images(samples)]
    assert len(picked) == MAX_IMAGES
    assert picked[0] == 0
    assert {after - before for before, after in pairwise(picked)} <= {15, 16}
    assert choose_images(samples[:3]) == samples[:3]


def test_the_minimum_is_half_of_the_reported_miou() -> None:
    counts = ConfusionMatrix(2)
    counts.matrix = torch.tensor([[6, 2], [2, 2]])  # IoU 0.6 and 1/3
    for reported, stops in ((93.0, False), (94.0, True)):
        preset = load_preset("demo", overrides=[f"teacher.reported_miou={reported}"])
        if stops:
            with pytest.raises(RmrkdError, match=r"mIoU 46\.67 .* below the minimum of 47\.00"):
                check_teacher_score(counts, 3, 9, preset)
        else:
            line = check_teacher_score(counts, 3, 9, preset)
            assert line == "teacher: mIoU 46.67 on 3 of 9 validation images, 93.00 reported by its source"
    with pytest.raises(RmrkdError, match="mIoU nan"):
        check_teacher_score(ConfusionMatrix(2), 3, 9, load_preset("demo", overrides=["teacher.min_miou=1"]))
    assert "mIoU nan" in check_teacher_score(
        ConfusionMatrix(2), 3, 9, load_preset("demo", overrides=["teacher.min_miou=0"])
    )
