"""`python -m benchmarks.camvid`: the rows are what the page says, everything runs, and nothing runs twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.camvid import __main__ as command
from benchmarks.camvid import bench, costs, latency, plan, records
from benchmarks.camvid.difference import Difference, interval_over_seeds
from benchmarks.camvid.goals import Goals
from benchmarks.camvid.plan import Choice, Files
from benchmarks.camvid.trainings import ROWS, Trainings
from benchmarks.training import Training
from rmrkd_cli.networks.libraries import build_network, build_outline, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.results.record import Record
from tests.benchmarks.test_methods import rows_of
from tests.docs.pages import tables
from tests.helpers.cli import rmrkd
from tests.helpers.network_files import write_onnx

TINY = (
    "schedule.crop=[64, 64]", "schedule.batch_size=2", "schedule.workers=0", "schedule.log_interval=1",
    "schedule.eval_interval=2", "teacher.min_miou=0", "data.train_scale=[96, 64]", "data.eval_scale=[96, 64]",
)  # fmt: skip


@pytest.mark.parametrize(("name", "largest"), [("student", 2.5e6), ("student-from-b", 2.5e6), ("small", 0.5e6)])
def test_students_are_as_small_as_the_page_says(name: str, largest: float) -> None:
    network = build_outline(network_config(load_preset(str(plan.PRESETS / f"{name}.yaml")).student, 11), "student")
    used = [value for key, value in network.named_parameters() if not key.startswith("auxiliary_head")]
    assert 0.15 * largest < sum(value.numel() for value in used) < largest


def test_both_presets_of_student_1_and_both_of_teacher_a_have_one_network() -> None:
    presets = {name: load_preset(str(plan.PRESETS / f"{name}.yaml")) for name in ("student", "student-from-b", "small")}
    teacher = load_preset(str(plan.PRESETS / "teacher-a.yaml")).student
    assert presets["student"].student == presets["student-from-b"].student
    for name in ("student", "small"):
        of_students = presets[name].teacher
        shape = {key: value for key, value in teacher.overrides.items() if not key.endswith("class_weight")}
        assert (of_students.config, of_students.overrides) == (teacher.config, shape)


def test_rows_differ_in_nothing_but_what_their_titles_say(tmp_path: Path) -> None:
    files = Files(tmp_path / "data", tmp_path / "weights", tmp_path / "work", tmp_path / "results", 800)
    runs = {row.name: plan.training(files, row, 3, 100, Choice(0.05, {}), tmp_path).runs()[0].preset for row in ROWS}
    small = {row.name for row in plan.SMALL}  # its backbone learns as fast as its head
    for names in (runs.keys() - small, small):
        assert len({str(runs[name].schedule) for name in names}) == 1
    assert len({str(preset.schedule.model_copy(update={"optimizer": None})) for preset in runs.values()}) == 1
    assert {preset.seed for preset in runs.values()} == {3}
    outputs = {name: Path(preset.teacher.outputs).name for name, preset in runs.items() if preset.teacher.outputs}
    assert outputs == {
        "kd": "c-800", "cwd": "c-800", "predicted-masks": "b", "eighth-and-predicted": "b", "small-kd": "c-800",
        "eighth-and-unlabelled": "b-eighth",
    }  # fmt: skip
    roots = {name: Path(str(preset.data.root)).name for name, preset in runs.items()}
    assert {name: root for name, root in roots.items() if root != "data"} == {
        "predicted-masks": "predicted", "eighth": "eighth", "eighth-and-predicted": "eighth-predicted",
        "eighth-and-unlabelled": "eighth",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "stages", "outputs"),
    [
        ("lskd", {"lskd": "logits"}, True),
        ("dist", {"dist": "logits", "aux_dist": "aux"}, False),
        ("gkd", {"gkd": 2}, False),
        ("attnfd", {"attnfd_stage": 2, "attnfd_head": "head"}, False),
    ],
)
def test_another_method_acts_on_maps_that_both_networks_have(
    method: str, stages: dict[str, object], outputs: bool, tmp_path: Path
) -> None:
    files = Files(tmp_path / "data", tmp_path / "weights", tmp_path / "work", tmp_path / "results", 800)
    [run] = plan.training(files, plan.method_row(method), 0, 100, Choice(0.05, {}), tmp_path).runs()
    assert {name: loss.stage for name, loss in run.preset.losses.items()} == stages
    assert (run.preset.teacher.outputs is not None, run.preset.teacher.checkpoint is not None) == (outputs, not outputs)


def test_each_root_has_the_masks_that_its_rows_name(tmp_path: Path, camvid: Path) -> None:
    files = Files(camvid, tmp_path / "weights", tmp_path / "work", tmp_path / "results", 800)
    plan.make_roots(files)
    masks = sorted((camvid / "trainannot").iterdir())

    def targets(root: Path) -> list[Path]:
        found = sorted((root / "trainannot").iterdir())
        assert [path.name for path in sorted((root / "train").iterdir())] == [path.name for path in found]
        return [path.readlink() for path in found]

    predicted = [files.labels_of_b / mask.name for mask in masks]
    assert targets(files.eighth) == masks[:: plan.EIGHTH]
    assert targets(files.predicted) == predicted
    assert targets(files.eighth_predicted) == [
        mask if number % plan.EIGHTH == 0 else guess
        for number, (mask, guess) in enumerate(zip(masks, predicted, strict=True))
    ]
    unlabelled = sorted(path.name for path in (files.eighth / plan.UNLABELLED).iterdir())
    assert unlabelled == [mask.name for number, mask in enumerate(masks) if number % plan.EIGHTH]


def test_the_third_trial_is_on_the_side_of_the_better_of_the_first_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(Files(tmp_path, tmp_path, tmp_path, tmp_path, 800), (0,), 30)
    kd, found = plan.METHODS[0], {"lr-0.01": 0.4, "weight-1": 0.2, "weight-0.3": 0.3, "weight-0.1": 0.25}

    def result(training: Training) -> Record | None:
        value = found.get(training.folder.name, 0.1)
        return {"metrics": {"miou": value}, "training": {"weights": {"kd": 8.0}}}

    monkeypatch.setattr(Trainings, "result", lambda self, training: result(training))
    assert [trainings.weight_trial(kd, number).folder.name for number in range(3)] == [
        "weight-1", "weight-0.3", "weight-0.1",
    ]  # fmt: skip
    assert {"schedule.lr=0.01", "losses.kd.weight=0.8"} <= set(trainings.weight_trial(kd, 2).settings)
    assert "losses.kd.weight=2.4" in trainings.of(kd, 0).settings
    found["weight-0.3"] = 0.15
    assert trainings.weight_trial(kd, 2).folder.name == "weight-3"
    assert "losses.kd.weight=8.0" in trainings.of(kd, 0).settings


def test_rows_with_the_outputs_of_b_have_the_weights_of_their_own_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(Files(tmp_path, tmp_path, tmp_path, tmp_path, 800), (0,), 30)
    found = {"cwd/weight-1": 0.4, "predicted-masks/weight-0.1": 0.4, "eighth-and-predicted/weight-0.3": 0.4}

    def result(self: Trainings, training: Training) -> Record:
        value = found.get("/".join(training.folder.parts[-2:]), 0.1 if training.folder.name == "weight-1" else 0.2)
        return {"metrics": {"miou": value}, "training": {"weights": {"cwd": 8.0}}}

    monkeypatch.setattr(Trainings, "result", result)
    for row, weight in zip((plan.METHODS[1], plan.PREDICTED, plan.WITH_OTHER_IMAGES[0]), (8.0, 0.8, 2.4), strict=True):
        assert f"losses.cwd.weight={weight}" in trainings.of(row, 0).settings


def test_rows_with_more_iterations_and_equal_time_follow_from_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(Files(tmp_path, tmp_path, tmp_path, tmp_path, 800), (0,), 30)
    found: dict[str, float | None] = {
        "kd": 0.4, "cwd": 0.2, "rmrkd": 0.3, "kd-x2": 0.3, "cwd-x2": 0.5, "rmrkd-x2": 0.4
    }  # fmt: skip

    def result(self: Trainings, training: Training) -> Record | None:
        value = found.get(training.folder.name, 0.1)
        return {"metrics": {"miou": value}, "training": {"weights": {}}} if value is not None else None

    monkeypatch.setattr(Trainings, "result", result)
    monkeypatch.setattr(Trainings, "costs", lambda _: {"baseline": 1.0, "kd": 1.0, "cwd": 1.01, "rmrkd": 1.5})
    longer = (trainings.twice_rows(), trainings.four_times_rows())
    groups = [[row.name for row in group] for group in trainings.equal_time_groups(*longer)]
    assert groups == [
        ["baseline", "rmrkd-x0.67", "kd", "cwd"], ["baseline-x2", "kd-x2", "cwd-x2"], ["baseline-x4", "cwd-x4"]
    ]  # fmt: skip
    assert [row.name for row in trainings.twice_rows()] == ["baseline-x2", "kd-x2", "rmrkd-x2", "cwd-x2"]
    assert [row.title for row in trainings.four_times_rows()] == [
        "masks alone, four times as long", "cwd, stored outputs of C, four times as long"
    ]  # fmt: skip
    found["rmrkd-x2"] = None  # not trained yet
    assert [row.name for row in trainings.four_times_rows()] == ["baseline-x4"]


def test_a_command_names_folders_and_whole_paths_only(tmp_path: Path) -> None:
    files = Files(Path("/data"), Path("/data/weights"), Path("/work"), tmp_path, 800)
    arguments = [
        "eval",
        "/data/weights/a.onnx",
        "--set",
        'data.root="/data"',
        "--set",
        "x=/srv/data/y",
        "/data2",
        "/work",
    ]
    assert records.records_of(files).command_of(arguments) == (
        "rmrkd eval WEIGHTS/a.onnx --set 'data.root=\"DATA\"' --set x=/srv/data/y /data2 WORK"
    )


@pytest.mark.parametrize("changed", [["--iterations", "3"], ["--teacher-iterations", "3"], ["--set", "a.b=1"]])
def test_other_settings_do_not_overwrite_the_kept_records(
    changed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--data", "x", "--weights", "x", *changed])
    assert "--results DIR" in capsys.readouterr().err


def test_the_interval_over_seeds_is_that_of_students_t() -> None:
    low, high = interval_over_seeds([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5  # t of two degrees of freedom; the standard deviation is 1
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    assert Difference((1.0, 2.0, 3.0)).cells() == ("+2.00", "-0.48 to +4.48", "+1.00, +2.00, +3.00")


def test_goals_are_judged_by_the_records(tmp_path: Path) -> None:
    percent = {
        "baseline": (50, 51, 52), "kd": (52, 53, 54), "rmrkd": (51, 53, 55), "cwd": (50, 50, 50),
        "baseline-x2": (54, 55, 56), "kd-x2": (56, 56, 56), "predicted-masks": (49, 49, 49),
    }  # fmt: skip
    results: dict[str, list[Record]] = {
        name: [{"metrics": {"miou": value / 100}, "training": {"iterations": 600}} for value in values]
        for name, values in percent.items()
    }
    files = Files(tmp_path, tmp_path, tmp_path, tmp_path, 800)
    groups = [(plan.BASELINE, *plan.METHODS), [plan.TWICE, plan.longer(plan.METHODS[0], 2)], [plan.FOUR_TIMES]]
    assert list(Goals(files, groups, [], [], results).rows()) == [
        ("+2 mIoU to masks alone, 600 iterations", "yes", "kd, stored outputs of C: +2.00 (+2.00 to +2.00)"),
        ("+2 mIoU to masks alone, twice as long, 600 iterations", "no",
         "kd, stored outputs of C, twice as long: +1.00 (-1.48 to +3.48)"),
        ("without masks, at most 5 below masks alone", "yes", f"{plan.PREDICTED.title}: -2.00 (-4.48 to +0.48)"),
        ("without masks, at most 5 below masks alone, twice as long", "no",
         f"{plan.PREDICTED.title}: -6.00 (-8.48 to -3.52)"),
    ]  # fmt: skip
    rmrkd_only = Goals(files, (), [[plan.BASELINE, plan.METHODS[2]]], [], results).rows()
    assert next(iter(rmrkd_only))[1] == "no"  # +2.00 (-0.48 to +4.48)


def test_the_classes_on_the_page_add_up_to_the_differences() -> None:
    found = list(tables("benchmarks/CAMVID.md"))
    differences = {
        (rows[0][0], row[0].split(",")[0].split()[0]): float(row[3])
        for header, *rows in reversed(found)  # student 1 comes before student 2
        if header[0] == "trained with"
        for row in rows[1:]
    }
    classes = [table for table in found if table[0][0] == "class"]
    assert len(classes) > 1
    for header, *rows in classes:
        for column, method in enumerate(header[2:], 2):
            total = sum(float(row[column]) for row in rows)
            rounding = 0.005 * (len(rows) + 1)
            assert total == pytest.approx(differences[header[1], method], abs=rounding), (header[1], method)


@pytest.fixture
def inputs(camvid: Path, tmp_path: Path) -> Path:
    """Folder of random weights with the names of the real ones."""
    student = load_preset(str(plan.PRESETS / "student.yaml")).student
    backbone = build_network(network_config(student, 11), device="cpu").backbone
    torch.save(backbone.state_dict(), tmp_path / "mobilenet_v2_imagenet.pth")
    write_onnx(tmp_path / "cityscapes-teacher.onnx", 19)
    return tmp_path


@pytest.mark.slow
def test_everything_runs_once(
    inputs: Path, camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    exported: list[str] = []

    def start(arguments: list[str], output: Path) -> int:
        started.append(arguments)
        if arguments[0] == "export":
            exported.append(arguments[2])
            if len(exported) > 1:  # tracing a network takes half a minute; the first file stands for all
                shutil.copy(exported[0], arguments[2])
                return 0
        outcome = rmrkd(*arguments)
        assert outcome.exit_code == 0, (arguments, outcome.message)
        return outcome.exit_code

    monkeypatch.setattr(bench, "start", start)
    monkeypatch.setattr(costs, "STEPS", 2)
    monkeypatch.setattr(costs, "ROUNDS", 1)
    monkeypatch.setattr(latency, "ROUNDS", 2)
    monkeypatch.setattr(plan, "WEIGHT_TRIALS", range(1))
    monkeypatch.setattr(plan, "LEARNING_RATES", (0.001,))
    given = ["--data", str(camvid), "--weights", str(inputs), "--work-dir", str(tmp_path / "work"), "--seeds", "0"]
    given += ["--iterations", "3", "--teacher-iterations", "1", "--jobs", "1", "--output", str(tmp_path / "page.md")]
    given += ["--methods", "kd,gkd"]  # kd has a row in any case
    given += ["--results", str(tmp_path / "results")]
    given += [part for text in TINY for part in ("--set", text)]
    assert command.main(given) == 0, capsys.readouterr().err
    page = (tmp_path / "page.md").read_text()
    trained = [arguments for arguments in started if arguments[0] == "train"]
    trainings = [arguments for arguments in trained if not any("/costs/" in word for word in arguments)]
    assert len(trained) == len(trainings) + 1 + len(plan.METHODS)
    equal_time = "Student 1 with all masks, equal time"  # only where a method was measured to be slower
    slower = rows_of(page, equal_time) if f"\n## {equal_time}\n" in page else {"masks alone": []}
    twice, four_times = 1 + len(plan.METHODS), 2  # the baseline and all methods, or the best
    rows = len(ROWS) + len(slower) - 1 + twice + four_times + 1  # and gkd
    trials = 1 + len(plan.METHODS) + len(plan.LEARN_FROM_B) + 1
    assert len(trainings) == 1 + trials + rows  # and teacher A
    assert len(rows_of(page, "Student 1 with all masks, twice the iterations")) == twice
    assert len(rows_of(page, "Student 1 with all masks, four times the iterations")) == four_times
    assert len(rows_of(page, "Trials")) == trials
    titles = (
        "Student 1 with all masks, equal iterations", "Student 1 with fewer masks",
        "Student 1 with 46 masks and the other images", "Student 2",
    )  # fmt: skip
    shown = {name: cells for title in titles for name, cells in rows_of(page, title).items()}
    longer = {plan.TWICE.title, plan.FOUR_TIMES.title}
    assert set(shown) == {*(row.title for row in ROWS), "gkd, live teacher A", *longer}
    assert shown["masks alone"][2:5] == ["–", "–", "–"]
    goals = [title for title in rows_of(page, "Goals and results") if not title.startswith("at equal time")]  # measured
    assert len(goals) == 3 + 3 + 1  # gain and labels at each length, and size
    assert len(rows_of(page, "Teachers")) == 5
    assert set(rows_of(page, "Size and speed")) == {
        "student 1", "student 1, INT8", "student 2", "teacher A", "teacher B",
    }  # fmt: skip
    assert len(rows_of(page, "Student files")) == rows
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size[0] == 5 * 240 + 4 * 4
    assert len(list((tmp_path / "work" / "eighth" / "train").iterdir())) == 1

    records = sorted((tmp_path / "results").rglob("*.json"))
    assert not any(str(tmp_path) in path.read_text() for path in records)  # no folder of this machine
    pair = [tmp_path / "results" / "rows" / f"{name}-seed-0.json" for name in ("baseline", "kd")]
    assert rmrkd("compare", *map(str, pair)).exit_code == 0

    started.clear()
    shutil.rmtree(tmp_path / "work")
    assert command.main(given) == 0
    assert not started  # all of it follows from the records
    assert page.split("\n## ")[1:] == (tmp_path / "page.md").read_text().split("\n## ")[1:]

    pair[1].unlink()
    capsys.readouterr()
    assert command.main(given) == 0
    assert [arguments[0] for arguments in started] == ["train", "cache-teacher", "train"]
    assert "differs" not in "".join(capsys.readouterr())  # trained again, to the same bits
