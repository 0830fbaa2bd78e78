"""A run that ended too early is trained further: where the learning rate goes on, and that it stays resumable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rmrkd_cli.api.train_settings import TrainSettings, chosen_lengths, load_changed_preset
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training.budget import TimeBudget
from rmrkd_cli.training.extension import extend, is_extension
from rmrkd_cli.training.kept_length import keep_lengths
from rmrkd_cli.training.learning_rate import learning_rate
from rmrkd_cli.training.plan import plan_runs
from rmrkd_cli.training.progress import Progress
from rmrkd_cli.training.run import train
from tests.helpers.cli import run_main


def run(tiny: Path, work: Path, iters: int, *overrides: str, **options: Any) -> list[dict[str, Any]]:
    changes = ["role=baseline", f"schedule.iters={iters}", f"teacher.schedule={{iters: {iters}}}", *overrides]
    return train(load_preset(str(tiny), overrides=changes), work, "cpu", Cluster(), **options)


@pytest.fixture(scope="module")
def extended(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a baseline for 2 iterations, then further to 6; keep a copy from before as `short`."""
    folder = tmp_path_factory.mktemp("extended")
    run(tiny, folder / "work", 2)
    shutil.copytree(folder / "work", folder / "short")
    run(tiny, folder / "work", 6, resume=True)
    return folder


def lines(work: Path) -> list[dict[str, Any]]:
    """Return the log without what differs between equal runs."""
    own = ("iter", "lr", "losses", "gradient_norm", "val_miou")
    read = [json.loads(line) for line in (work / "baseline" / "log.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in own if key in line} for line in read]


def weights(work: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(work / "baseline" / "student.pth", weights_only=True)["state_dict"]
    return state


def test_the_learning_rate_follows_the_longer_schedule_from_there(extended: Path, tiny: Path) -> None:
    schedule = load_preset(str(tiny)).schedule
    short, long = (schedule.model_copy(update={"iters": iters}) for iters in (2, 6))
    rates = [line["lr"] for line in lines(extended / "work") if "lr" in line]
    assert rates == [
        learning_rate(short, 0),
        learning_rate(short, 1),
        *(learning_rate(long, step) for step in (2, 3, 4, 5)),
    ]
    record = json.loads((extended / "work" / "baseline" / "result.json").read_text())["training"]
    assert record["iterations"] == 6
    assert record["changes"] == [{"iteration": 2, "iters": [2, 6]}]
    assert "iters: 6" in (extended / "work" / "baseline" / "config.yaml").read_text()


def test_the_log_says_what_it_means(
    extended: Path, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(extended / "short", tmp_path / "work")
    run(tiny, tmp_path / "work", 4, resume=True)
    err = capfd.readouterr().err
    assert "trained further at iteration 2: 4 iterations in all, before 2 iterations; the learning rate follows" in err
    assert f"({learning_rate(load_preset(str(tiny)).schedule, 2):.3g} instead of 0.0001)" in err
    run(tiny, tmp_path / "work", 4, resume=True)
    assert "baseline is already finished" in capfd.readouterr().err


def test_it_is_resumed_exactly_also_with_the_result_of_before(extended: Path, tiny: Path, tmp_path: Path) -> None:
    """As killed after iteration 4 of 6: the files of the shorter run lie there until the longer one has ended."""
    shutil.copytree(extended / "work", tmp_path / "work", symlinks=True)
    folder = tmp_path / "work" / "baseline"
    for name in ("iter_6.pth", "last.pth", "best.pth"):
        (folder / name).unlink()
    for name in ("student.pth", "result.json"):
        shutil.copy(extended / "short" / "baseline" / name, folder / name)
    (record,) = run(tiny, tmp_path / "work", 6, resume=True)
    assert record["training"]["changes"] == [{"iteration": 2, "iters": [2, 6]}]
    assert lines(tmp_path / "work") == lines(extended / "work")
    once, again = weights(extended / "work"), weights(tmp_path / "work")
    assert all(torch.equal(once[key], again[key]) for key in once)


def test_it_is_not_made_shorter(extended: Path, tiny: Path) -> None:
    with pytest.raises(RmrkdError, match=r"schedule\.iters: 6 in the run, 4 now") as caught:
        run(tiny, extended / "work", 4, resume=True)
    assert "trained further, with a larger --max-iters, but not be made shorter" in caught.value.hint


def test_without_a_checkpoint_it_is_not_started_anew(extended: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(extended / "short", tmp_path / "work")
    for path in (tmp_path / "work" / "baseline").glob("*.pth"):
        if path.name != "student.pth":
            path.unlink()
    with pytest.raises(RmrkdError, match="has no checkpoint from which it can be trained further"):
        run(tiny, tmp_path / "work", 6, resume=True)


def test_role_all_trains_students_further_with_their_teacher(tiny: Path, tmp_path: Path) -> None:
    options = ["--preset", str(tiny), "--role", "all", "--work-dir", str(tmp_path), "--device", "cpu"]
    assert run_main("train", *options, "--max-iters", "1")[0] == 0
    teacher = (tmp_path / "teacher" / "student.pth").read_bytes()
    code, out, err = run_main("train", *options, "--max-iters", "2", "--resume")
    assert code == 0
    assert "students were distilled from it" in err
    assert (tmp_path / "teacher" / "student.pth").read_bytes() == teacher
    assert "equal iterations: 2 of 2 images" in out
    for role in ("baseline", "distill"):
        record = json.loads((tmp_path / role / "result.json").read_text())
        assert record["training"]["changes"] == [{"iteration": 1, "iters": [1, 2]}]


def test_a_time_budget_is_extended_at_its_place_in_the_schedule() -> None:
    before, now = Schedule(iters=100, time_budget=10.0, eval_interval=20), Schedule(iters=100, time_budget=40.0)
    progress = Progress(iteration=7, seconds=10.0, evaluated=7, evaluated_at=100.0, over=True)
    assert "40 s in all, before 10 s" in extend(progress, before, now)
    assert (progress.over, progress.evaluated_at) == (False, 25.0)
    assert progress.changes == [{"iteration": 7, "time_budget": [10.0, 40.0]}]
    assert TimeBudget(now, progress, 40.0).position == 25.0
    assert extend(progress, now, now) == ""


@pytest.mark.parametrize(
    ("before", "now", "allowed"),
    [
        ({"iters": 5}, {"iters": 5}, True),
        ({"iters": 5}, {"iters": 6}, True),
        ({"iters": 6}, {"iters": 5}, False),
        ({"iters": 5}, {"iters": 6, "time_budget": 9}, False),
        ({"time_budget": 9}, {"iters": 90_000}, False),
        ({"time_budget": 9}, {"time_budget": 10}, True),
        ({"time_budget": 9}, {"time_budget": 8}, False),
        ({"time_budget": 9}, {"time_budget": 10, "iters": 7}, False),
    ],
)
def test_which_lengths_extend_a_run(before: dict[str, int], now: dict[str, int], allowed: bool) -> None:
    assert is_extension(Schedule(**before), Schedule(**now)) == allowed


@pytest.mark.parametrize("finished", [True, False])
def test_resume_alone_keeps_the_length_of_the_run(finished: bool, extended: Path, tiny: Path, tmp_path: Path) -> None:
    """The preset has 4 iterations: a short trial that is resumed does not become a full run."""
    shutil.copytree(extended / "short", tmp_path / "work", symlinks=True)
    folder = tmp_path / "work" / "baseline"
    if not finished:
        (folder / "student.pth").unlink()
        (folder / "result.json").unlink()
    options = ["--preset", str(tiny), "--role", "baseline", "--work-dir", str(tmp_path / "work"), "--device", "cpu"]
    code, out, err = run_main("train", *options, "--resume")
    assert code == 0, err
    assert (
        "--resume keeps the students' length of 2 iterations; the preset has 4 iterations: --max-iters 4 trains further"
        in err
    )
    assert ("baseline is already finished" in err) == finished
    assert "mIoU" in out
    record = json.loads((folder / "result.json").read_text())["training"]
    assert (record["iterations"], record["changes"]) == (2, [])
    assert "iters: 2" in (folder / "config.yaml").read_text()


def lengths(tiny: Path, work: Path, **changes: Any) -> tuple[dict[str, float], list[str]]:
    """Return role -> length of `train --role all --resume` with more options, and the notes."""
    options, notes = TrainSettings(preset=str(tiny), role="all", resume=True, **changes), list[str]()
    preset = load_changed_preset(options)
    plans = plan_runs(preset, work, options.seeds)
    (runs,) = keep_lengths(plans, chosen_lengths(preset, options), notes.append)
    schedules = {run.role: run.preset.schedule_for(run.role) for run in runs}
    return {role: schedule.time_budget or schedule.iters for role, schedule in schedules.items()}, notes


def test_which_lengths_resume_keeps(extended: Path, tiny: Path, tmp_path: Path) -> None:
    """Only a baseline of 2 iterations exists. A new student beside it gets its length, a new teacher the preset's."""
    shutil.copytree(extended / "short", tmp_path / "work")
    kept, notes = lengths(tiny, tmp_path / "work")
    assert kept == {"teacher": 4, "baseline": 2, "distill": 2}
    assert len(notes) == 1
    cases: list[tuple[dict[str, Any], dict[str, float]]] = [
        ({"max_iters": 6}, {"teacher": 6, "baseline": 6, "distill": 6}),
        ({"max_iters": 1}, {"teacher": 1, "baseline": 1, "distill": 1}),  # rejected later, as before
        ({"settings": ["schedule.iters=6"]}, {"teacher": 6, "baseline": 6, "distill": 6}),
        ({"settings": ["schedule={iters: 6}"]}, {"teacher": 6, "baseline": 6, "distill": 6}),
        ({"settings": ["teacher.schedule.iters=3"]}, {"teacher": 3, "baseline": 2, "distill": 2}),
        ({"settings": ["schedule.keep=1"]}, {"teacher": 4, "baseline": 2, "distill": 2}),
        ({"time_budget": "9s"}, {"teacher": 4, "baseline": 9, "distill": 9}),
    ]
    for options, expected in cases:
        assert lengths(tiny, tmp_path / "work", **options)[0] == expected, options


def test_resume_alone_keeps_the_teachers_length_and_a_longer_one(extended: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(extended / "short" / "baseline", tmp_path / "teacher")
    shutil.copytree(extended / "work" / "baseline", tmp_path / "baseline")
    kept, notes = lengths(tiny, tmp_path)
    assert kept == {"teacher": 2, "baseline": 6, "distill": 6}
    assert notes == [
        "--resume keeps the teacher's length of 2 iterations; the preset has 4 iterations: "
        "--set teacher.schedule.iters=4 trains further",
        "--resume keeps the students' length of 6 iterations; the preset has 4 iterations",
    ]
