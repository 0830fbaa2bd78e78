"""Runs with a time budget: they end in time, interrupted or not, with one worker or two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import Interrupted, RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.plan import plan_runs
from rmrkd_cli.training.run import train
from tests.helpers.resumed import stop_in_step

BUDGET = 1.5
SCHEDULE = (
    "role=baseline", f"schedule.time_budget={BUDGET}", "schedule.iters=4", "schedule.eval_interval=2",
    "schedule.checkpoint_interval=1",
)  # fmt: skip


def run(tiny: Path, work_dir: Path, *overrides: str, workers: int = 1, resume: bool = False) -> dict:
    preset = load_preset(str(tiny), overrides=[*SCHEDULE, *overrides])
    return train(preset, work_dir, "cpu", Cluster(workers=workers), resume=resume)[0]


def lines_of(work_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (work_dir / "baseline" / "log.jsonl").read_text().splitlines()]


def assert_ended_in_time(work_dir: Path, record: dict) -> list[dict]:
    """Check that the last step ended within one step of the budget; return the logged steps."""
    steps = [line for line in lines_of(work_dir) if "losses" in line]
    elapsed = [line["elapsed"] for line in steps]
    training = record["training"]
    assert [line["iter"] for line in steps] == list(range(1, training["iterations"] + 1))
    assert elapsed == sorted(elapsed)
    assert training["time_budget"] == BUDGET
    assert elapsed[-2] < BUDGET
    longest = max(after - before for before, after in zip([0.0, *elapsed], elapsed, strict=False))
    assert BUDGET - training["seconds"] <= longest
    return steps


def test_a_run_ends_when_its_budget_is_used_up(tiny: Path, tmp_path: Path) -> None:
    record = run(tiny, tmp_path)
    steps = assert_ended_in_time(tmp_path, record)
    rates = [line["lr"] for line in steps]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.01
    assert rates[-1] < 0.01 * 0.5
    evaluated = [line["elapsed"] for line in lines_of(tmp_path) if "val_miou" in line]
    assert len(evaluated) == 2
    assert evaluated[0] >= BUDGET / 2
    assert evaluated[1] == record["training"]["seconds"]


def test_an_interrupted_run_has_the_same_total_time(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_in_step(patched, 1.2)
        with pytest.raises(Interrupted, match=r"after iteration \d+, .* s of 1\.5 s; the state is saved"):
            run(tiny, tmp_path)
    before = lines_of(tmp_path)[-1]
    assert before["elapsed"] > 0.3 * BUDGET
    with pytest.raises(RmrkdError, match=r"schedule\.time_budget: 1\.5 in the run, 1\.2 now"):
        run(tiny, tmp_path, "schedule.time_budget=1.2", resume=True)
    record = run(tiny, tmp_path, resume=True)
    steps = assert_ended_in_time(tmp_path, record)
    assert steps[before["iter"]]["elapsed"] > before["elapsed"]
    evaluated = [line for line in lines_of(tmp_path) if "val_miou" in line]
    assert len(evaluated) == 2


@pytest.mark.usefixtures("forked_workers")
def test_two_workers_end_in_the_same_step(tiny: Path, tmp_path: Path) -> None:
    record = run(tiny, tmp_path, workers=2)
    assert record["training"]["workers"] == 2
    assert_ended_in_time(tmp_path, record)


def test_a_time_budget_does_not_change_the_teachers_schedule(tiny: Path) -> None:
    shared = load_preset(str(tiny), overrides=["schedule.time_budget=2h"])
    own = load_preset(str(tiny), overrides=["schedule.time_budget=2h", "teacher.schedule.time_budget=90m"])
    assert [preset.schedule_for("teacher").time_budget for preset in (shared, own)] == [None, 5400]
    assert shared.schedule_for("baseline").time_budget == shared.schedule_for("distill").time_budget == 7200


def test_a_finished_teacher_can_be_used_with_another_time_budget(tiny: Path, tmp_path: Path) -> None:
    overrides = ["schedule.iters=1", "teacher.schedule.iters=1"]
    train(load_preset(str(tiny), overrides=["role=teacher", *overrides]), tmp_path, "cpu", Cluster())
    bounded = load_preset(str(tiny), overrides=["schedule.time_budget=2h", *overrides])
    teacher = plan_runs(bounded, tmp_path)[0][0]
    teacher.run_dir.check_usable(teacher.preset, resume=True, fresh=False)
