"""Several seeds in one command: each gives the same result as alone, and all are checked before the first starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rmrkd_cli.cli.eval import find_students
from rmrkd_cli.cli.train import _print_results as show
from rmrkd_cli.cli.train_values import parse_seeds
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.results.record import read_record
from rmrkd_cli.training import preflight
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd

ROLES = ("teacher", "baseline", "distill")
SHORT = ["schedule.iters=1"]


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two seeds of all roles with one command."""
    work_dir = tmp_path_factory.mktemp("runs") / "tiny"
    outcome = rmrkd(
        "train", "--preset", tiny, "--work-dir", work_dir, "--device", "cpu", "--seeds", "3,1", "--set", SHORT[0]
    )
    assert outcome.exit_code == 0
    for landmark in ("distill     1, 3 ", "distill - baseline = ", "; by seed 1: "):
        assert landmark in outcome.stdout
    return work_dir


def test_each_seed_gives_the_same_result_as_alone(trained: Path, tiny: Path, tmp_path: Path) -> None:
    """Including the teacher, which the preset trains."""
    train(load_preset(str(tiny), overrides=["seed=1", *SHORT]), tmp_path, "cpu", Cluster())
    for role in ROLES:
        together, alone = (
            torch.load(root / role / "student.pth", weights_only=True)["state_dict"]
            for root in (trained / "seed-1", tmp_path)
        )
        assert all(torch.equal(together[key], alone[key]) for key in alone)
        first, other = (
            json.loads((root / role / "log.jsonl").read_text().splitlines()[0])["losses"]
            for root in (trained / "seed-1", trained / "seed-3")
        )
        assert first != other


def test_resume_continues_the_unfinished_run(
    trained: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (trained / "seed-1" / "distill" / "result.json").unlink()
    checks = []
    quick_check = preflight.quick_check
    monkeypatch.setattr(preflight, "quick_check", lambda *args, **how: checks.append(quick_check(*args, **how)))
    preset = load_preset(str(tiny), overrides=SHORT)
    records = train(preset, trained, "cpu", Cluster(), seeds=[3, 1], resume=True)
    assert [(record["seed"], record["role"]) for record in records] == [(s, role) for s in (3, 1) for role in ROLES]
    assert len(checks) == 1
    err = capfd.readouterr().err
    assert err.count("is already finished") == 5
    assert "seed 1: teacher is already finished" in err


def test_every_run_directory_is_checked_before_the_first_run(trained: Path, tiny: Path) -> None:
    preset = load_preset(str(tiny), overrides=SHORT)
    with pytest.raises(RmrkdError, match=r"seed-1/teacher` contains a finished run"):
        train(preset, trained, "cpu", Cluster(), seeds=[7, 1])
    assert not (trained / "seed-7").exists()


def test_every_teacher_is_checked_before_the_first_run(trained: Path, tiny: Path, tmp_path: Path) -> None:
    """Each seed has its own teacher if the preset has no checkpoint."""
    (tmp_path / "seed-3").symlink_to(trained / "seed-3")
    preset = load_preset(str(tiny), overrides=["role=distill", "seed=1", *SHORT])
    with pytest.raises(RmrkdError, match=r"seed-4/teacher/student\.pth` does not exist"):
        train(preset, tmp_path, "cpu", Cluster(), seeds=[3, 4], fresh=True)
    assert not (tmp_path / "seed-4").exists()
    assert not list((trained / "seed-3").glob("*.old*"))


def test_a_shared_teacher_is_measured_before_the_first_run(
    trained: Path, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher = f"teacher.checkpoint={{path: {trained}/seed-3/teacher/student.pth}}"
    preset = load_preset(str(tiny), overrides=[teacher, *SHORT])
    records = train(preset, tmp_path, "cpu", Cluster(), seeds=[5, 6])
    assert [(record["seed"], record["role"]) for record in records] == [(s, role) for s in (5, 6) for role in ROLES[1:]]
    err = capfd.readouterr().err
    assert err.index("teacher: mIoU") < err.index("seed 5, 1 of 2: baseline")
    sources = [
        torch.load(tmp_path / f"seed-{seed}" / "distill" / "student.pth", weights_only=True)["meta"]["sources"]
        for seed in (5, 6)
    ]
    assert sources[0]["teacher"]["sha256"] == sources[1]["teacher"]["sha256"]


def test_find_students_finds_all_seeds(trained: Path) -> None:
    found = [path.relative_to(trained.parent).as_posix() for path in find_students(trained.parent, "camvid")]
    assert found == [f"tiny/seed-{seed}/{role}/student.pth" for seed in (1, 3) for role in sorted(ROLES)]


def test_results_on_different_images_are_not_compared(
    trained: Path, tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """When validation images were added before a run was resumed."""
    before, after = (read_record(trained / "seed-3" / role / "result.json") for role in ROLES[1:])
    after["protocol"] |= {"images": 3, "fingerprint": "abc"}
    after["per_image"] = {key: values[:3] for key, values in after["per_image"].items()}
    show([before, after], load_preset(str(tiny)))
    out, err = capfd.readouterr()
    assert not out
    assert "number of images: 4 in `baseline`, 3 in `distill`" in err
    assert f"rmrkd eval {before['checkpoint']} {after['checkpoint']}" in err


def test_print_config_shows_the_first_seed(tiny: Path) -> None:
    outcome = rmrkd("train", "--preset", tiny, "--seeds", "7,8", "--print-config")
    assert "\nseed: 7\n" in outcome.stdout


def test_seeds_keep_their_order() -> None:
    assert parse_seeds(None) is None
    assert parse_seeds("2, 0,1") == [2, 0, 1]
    assert parse_seeds(",".join(map(str, range(100)))) == list(range(100))
