"""`rmrkd tune`: what is searched, in which order, what survives a kill, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmrkd_cli.errors import Interrupted, RmrkdError, RunError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.loss_schema import loss_model, loss_types, search_range
from rmrkd_cli.training.tuning.space import check_validation_split, search_space, settings_of
from rmrkd_cli.training.tuning.study import best_settings, open_study, rows, search, write_best
from rmrkd_cli.training.tuning.trial import Outcome, TuningJob
from tests.helpers.cli import rmrkd

WEIGHT, TAU = 2.0, 1.0  # of the first trial: as measured, and the default


def job(folder: Path, **changes: Any) -> TuningJob:
    return TuningJob("demo", folder, "kd", iters=50, **changes)


class Trainings:
    """In place of training: the mIoU is largest at weight 6 and temperature 4; validations rise to it.

    Args:
        stop_at: Raise this error at the second validation of this trial.
    """

    def __init__(self, stop_at: str = "", error: Exception | None = None) -> None:
        self.stop_at, self.error = stop_at, error
        self.names: list[str] = []

    def __call__(
        self, job: TuningJob, name: str, changes: Sequence[str], watcher: Callable[[int, float], None]
    ) -> Outcome:
        self.names.append(name)
        values = {"weight": WEIGHT, "tau": TAU} | {
            text.split("=")[0].rpartition(".")[2]: float(text.split("=")[1]) for text in changes
        }
        miou = 0.5 - 0.1 * math.log(values["weight"] / 6) ** 2 - 0.05 * math.log(values["tau"] / 4) ** 2
        for part in range(1, 6):
            watcher(10 * part, miou * part / 5)
            if name == self.stop_at and part == 2 and self.error is not None:
                raise self.error
        return Outcome(miou, {"kd": values["weight"]})


def tuned(folder: Path, trials: int, trainings: Trainings | None = None) -> list[list[str]]:
    study = open_study(job(folder), resume=True)
    search(job(folder), study, trials, trainings or Trainings())
    return rows(study)


def test_the_space_is_the_weight_and_the_options_with_a_range() -> None:
    preset = load_preset("demo", method="cwd")
    weight, tau = search_space(preset)
    assert (weight.key, weight.default, weight.low, weight.high) == ("cwd.weight", None, 0.1, 10)
    assert (tau.key, tau.default, tau.low, tau.high) == ("cwd.tau", 4, 1, 10)
    measured, _ = search_space(preset, {"cwd": 3.0})
    assert (measured.default, measured.low, measured.high) == (3, pytest.approx(0.3), 30)
    zero = load_preset("demo", method="cwd", overrides=["losses.cwd.weight=0", "losses.cwd.tau=50"])
    assert [(one.key, one.high) for one in search_space(zero)] == [("cwd.tau", 50)]
    assert settings_of({"cwd.tau": 2.0}) == ["losses.cwd.tau=2"]
    with pytest.raises(RmrkdError, match="has no distillation losses to tune"):
        search_space(load_preset("demo", overrides=["losses={}"]))


def test_every_range_is_of_an_option_and_holds_its_default() -> None:
    ranges = {kind: search_range(kind) for kind in loss_types()}
    assert {kind for kind, found in ranges.items() if "tau" in found} == {
        kind for kind in loss_types() if "tau" in loss_model(kind).model_fields
    }
    for kind, found in ranges.items():
        for option, (low, high) in found.items():
            assert 0 < low < high
            assert low <= loss_model(kind).model_fields[option].default <= high
            loss_model(kind).model_validate({"type": kind, option: low})


def test_the_search_finds_the_maximum_and_stops_bad_trials_early(tmp_path: Path) -> None:
    found = tuned(tmp_path, 30)
    study = open_study(job(tmp_path), resume=True)
    first = 0.5 - 0.1 * math.log(3) ** 2 - 0.05 * math.log(4) ** 2
    assert found[0][1:] == [f"{100 * first:.2f}", "", "kd.weight=2 kd.tau=1"]
    best = {text.split("=")[0]: float(text.split("=")[1]) for text in best_settings(study)}
    assert best["losses.kd.weight"] == pytest.approx(6, rel=0.5)
    assert study.best_value > 0.47
    pruned = [row for row in found if row[2] == "stopped early"]
    assert 3 < len(pruned) < 26
    assert len(found) == 30


def test_a_killed_search_continues_with_the_trial_that_it_was_in(tmp_path: Path) -> None:
    whole = tuned(tmp_path / "whole", 12)
    stopped = Trainings("trial-010", Interrupted(15, "stopped"))
    with pytest.raises(Interrupted):
        tuned(tmp_path / "parts", 12, stopped)
    assert stopped.names[-1] == "trial-010"
    rest = Trainings()
    continued = tuned(tmp_path / "parts", 12, rest)
    assert rest.names == [f"trial-{number:03d}" for number in range(10, 13)]
    assert continued == whole


def test_a_failed_trial_is_recorded_and_a_failed_first_one_ends_the_search(tmp_path: Path) -> None:
    found = tuned(tmp_path / "a", 5, Trainings("trial-003", RunError("loss `kd` is nan")))
    assert [row[2] for row in found] == ["", "", "failed", "", ""]
    study = open_study(job(tmp_path / "a"), resume=True)
    assert study.get_trials()[2].user_attrs["error"] == "loss `kd` is nan"
    with pytest.raises(RunError, match="loss `kd` is nan"):
        tuned(tmp_path / "b", 5, Trainings("trial-001", RunError("loss `kd` is nan")))
    assert len(tuned(tmp_path / "b", 5)) == 5


def test_the_best_settings_are_a_recipe(tmp_path: Path) -> None:
    tuned(tmp_path, 4)
    study, file = open_study(job(tmp_path), resume=True), tmp_path / "best.yaml"
    write_best(job(tmp_path), study, file)
    by_recipe = load_preset("demo", recipe=str(file))
    by_set = load_preset("demo", method="kd", overrides=best_settings(study))
    assert by_recipe.losses == by_set.losses
    assert (by_recipe.method, by_recipe.schedule) == ("kd", by_set.schedule)
    assert f"{100 * study.best_value:.2f} mIoU on the validation images" in file.read_text()


def test_another_search_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    tuned(tmp_path, 2)
    with pytest.raises(RmrkdError, match="contains a search, which is not overwritten"):
        open_study(job(tmp_path), resume=False)
    for other in (job(tmp_path, seed=1), job(tmp_path, settings=("schedule.lr=0.5",))):
        with pytest.raises(RmrkdError, match="was begun with another preset, method, length, seed or --set"):
            open_study(other, resume=True)


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        ("{images: a, labels: b}", "{images: a, labels: b}", "are the same images"),
        ("{images: test/images, labels: b}", "null", "`data.val.images: test/images` is a test split"),
        ("{images: a, labels: b, names: lists/test.txt}", "null", "is a test split, which tune does not use"),
    ],
)
def test_the_test_split_is_refused(tmp_path: Path, val: str, test: str, message: str) -> None:
    train = "{images: t, labels: m}"
    data = f"{{root: x, classes: [a, b], train_scale: [64, 64], train: {train}, val: {val}, test: {test}}}"
    networks = "teacher: {config: pspnet/a.py, checkpoint: {path: t.pth}}\nstudent: {config: pspnet/a.py}"
    file = tmp_path / "p.yaml"
    file.write_text(f"dataset: custom\ndata: {data}\n{networks}\nlosses: {{kd: {{type: kd}}}}\n")
    with pytest.raises(RmrkdError, match=message):
        check_validation_split(load_preset(str(file)))
    outcome = rmrkd("tune", "--preset", file, "--work-dir", tmp_path / "w", "--dry-run")
    assert outcome.exit_code == 2
    assert "test" in outcome.message
    check_validation_split(load_preset("demo"))
    file.write_text(file.read_text().replace(f"val: {val}, test: {test}", "val: {images: latest, labels: contest}"))
    check_validation_split(load_preset(str(file)))


@pytest.mark.slow
def test_a_real_search(tiny: Path, tmp_path: Path) -> None:
    """The teacher is trained first; each trial trains, and leaves no checkpoints."""
    arguments = ("tune", "--preset", tiny, "--method", "kd", "--trials", 2, "--max-iters", 2, "--device", "cpu")
    options = ("--work-dir", tmp_path / "w", "--set", "schedule.workers=0")
    dry = rmrkd(*arguments, *options, "--dry-run")
    assert (dry.exit_code, (tmp_path / "w").exists()) == (0, False)
    assert "searched: kd.weight 0.1 to 10 times the automatic weight; kd.tau 0.5 to 10" in dry.stdout
    assert "cost: 2 trials of 2 iterations, at most 4 steps; a step takes " in dry.stdout
    assert "trained first, 4 iterations" in dry.stdout
    outcome = rmrkd(*arguments, *options)
    assert outcome.exit_code == 0, outcome.message
    assert outcome.stdout.count("kd.tau=") >= 3
    files = {path.relative_to(tmp_path / "w").as_posix() for path in (tmp_path / "w").rglob("*.pth")}
    assert {file for file in files if file.startswith("trial")} == {
        f"trial-{number:03d}/distill-kd/student.pth" for number in (1, 2)
    }
    assert "teacher/student.pth" in files
    recipe = yaml.safe_load((tmp_path / "w/best.yaml").read_text())
    assert recipe["preset"]["losses"]["kd"]["weight"] > 0
    again = rmrkd(*arguments, *options)
    assert again.message == f"`{tmp_path / 'w'}` contains a search, which is not overwritten"
