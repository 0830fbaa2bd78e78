"""Runs with TensorBoard, wandb offline and MLflow in an SQLite file, read back from what they wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.installation.requirements import install_command
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training import trainer
from rmrkd_cli.training.run import train
from rmrkd_cli.training.trackers import mlflow as mlflow_tracker
from rmrkd_cli.training.trackers.mlflow import flatten
from tests.helpers.wandb_file import OfflineRun, offline_folders, read_offline_run

ALL = ("tensorboard", "wandb", "mlflow")
STUDENT_FILES = {"student.pth", "result.json", "config.yaml"}
OVERRIDES = ("role=baseline", "seed=5")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No server and no account: wandb is offline because there is no key, and MLflow has a database in a folder."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(folder / "no-netrc"))
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(folder / name))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)  # MLflow's artifacts are in `mlruns`
        yield folder


@pytest.fixture(scope="module")
def tracked(stores: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run by two workers with all trackers."""
    from tests.helpers.forked import launched_by_forking

    work_dir = tmp_path_factory.mktemp("tracked")
    with launched_by_forking():
        train(load_preset(str(tiny), overrides=OVERRIDES), work_dir, "cpu", Cluster(workers=2), track=ALL)
    return work_dir / "baseline"


def logged(run: Path) -> tuple[list[dict], list[dict]]:
    """Return the steps and the validations in `log.jsonl`."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "losses" in line], [line for line in lines if "val_miou" in line]


def expected_scalars(step: dict) -> dict[str, float]:
    """Return the scalars of a step that `log.jsonl` has too."""
    return {
        **{f"loss/{name}": value for name, value in step["losses"].items()},
        **{f"weighted/{name}": value for name, value in step["weighted"].items()},
        "weighted/total": step["total"], "lr": step["lr"], "gradient_norm/total": step["gradient_norm"],
        "seconds_per_step": step["seconds"], "data_seconds_per_step": step["data_seconds"],
    }  # fmt: skip


def expected_result(run: Path) -> dict[str, float]:
    record = json.loads((run / "result.json").read_text())
    metrics = record["metrics"]
    return {
        "result/mIoU": 100 * metrics["miou"], "result/mAcc": 100 * metrics["macc"],
        "result/aAcc": 100 * metrics["aacc"], "result/mDice": 100 * metrics["mdice"],
        "result/best mIoU": 100 * record["best_miou"], "result/parameters": record["parameters"],
        "result/MACs": record["macs"], "result/training seconds": record["training"]["seconds"],
        **{
            f"result/IoU/{name}": 100 * value
            for name, value in zip(load_classes(run), metrics["iou"], strict=True)
            if value is not None
        },
    }  # fmt: skip


def load_classes(run: Path) -> list[str]:
    from rmrkd_cli.checkpoints.reader import read_checkpoint

    return list(read_checkpoint(run / "student.pth", lazy=True).meta["CLASSES"])


def scalars_of_tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0}).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def mlflow_run(run: Path) -> tuple[Any, Any]:
    """Return MLflow's client, and the run of a run directory."""
    from mlflow import MlflowClient

    client = MlflowClient()
    return client, client.get_run(json.loads((run / "trackers.json").read_text())["mlflow"]["id"])


def scalars_of_mlflow(run: Path) -> dict[str, list[tuple[int, float]]]:
    client, found = mlflow_run(run)
    return {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }


def only_offline_run(run: Path) -> OfflineRun:
    (folder,) = offline_folders(run)
    return read_offline_run(folder)


def test_rank_0_alone_logs_one_run(tracked: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("rmrkd")
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert len(offline_folders(tracked)) == 1
    assert len(list((tracked / "tensorboard").iterdir())) == 1


def test_wandb_has_config_group_and_end(tracked: Path) -> None:
    found = only_offline_run(tracked)
    settings = found.config.pop("rmrkd")
    found.config.pop("_wandb")
    assert found.config == yaml.safe_load((tracked / "config.yaml").read_text())
    assert (settings["workers"], settings["device"][:3]) == (2, "cpu")
    run = found.run
    assert (run.project, run.run_group, run.job_type) == ("rmrkd", "tiny/baseline", "baseline")
    assert (run.display_name, list(run.tags)) == ("tiny/baseline seed 5", ["camvid"])
    assert found.exit_code == 0


def test_wandb_has_the_values_of_the_log(tracked: Path) -> None:
    found = only_offline_run(tracked)
    steps, validations = logged(tracked)
    assert [row["_step"] for row in found.rows] == [row["iteration"] for row in found.rows] == [1, 2, 3, 4]
    for row, step in zip(found.rows, steps, strict=True):
        assert {name: row[name] for name in expected_scalars(step)} == expected_scalars(step)
    validated = [row for row in found.rows if "mIoU" in row]
    assert [row["iteration"] for row in validated] == [line["iter"] for line in validations] == [2, 4]
    for row, line in zip(validated, validations, strict=True):
        assert (row["mIoU"], row["best mIoU"]) == (100 * line["val_miou"], 100 * line["best_miou"])
        values = [value for name, value in row.items() if name.startswith("IoU/")]
        assert math.isclose(sum(values) / len(values), row["mIoU"])


def test_wandb_has_pictures_result_and_student(tracked: Path) -> None:
    (folder,) = offline_folders(tracked)
    found = read_offline_run(folder)
    for row in (row for row in found.rows if "mIoU" in row):
        pictures = {name: value for name, value in row.items() if name.startswith("validation/")}
        assert len(pictures) == 2  # of four images, every second is rank 0's
        for picture in pictures.values():
            assert Image.open(folder / "files" / picture["path"]).size == (3 * 96, 64)
    summary = {name: value for name, value in found.summary.items() if name.startswith("result/")}
    assert summary == expected_result(tracked)
    assert found.artifacts.keys() == STUDENT_FILES
    for name, path in found.artifacts.items():
        assert path.read_bytes() == (tracked / name).read_bytes()


def test_mlflow_has_the_values_of_the_log(tracked: Path) -> None:
    found = scalars_of_mlflow(tracked)
    steps, validations = logged(tracked)
    for step in steps:
        for name, value in expected_scalars(step).items():
            assert (step["iter"], value) in found[name]
    for line in validations:
        assert (line["iter"], 100 * line["val_miou"]) in found["mIoU"]
    assert len(found["lr"]) == 4
    assert len(found["mIoU"]) == 2
    result = {name: values for name, values in found.items() if name.startswith("result/")}
    assert result == {name: [(4, value)] for name, value in expected_result(tracked).items()}


def test_mlflow_has_parameters_tags_pictures_and_files(tracked: Path, tmp_path: Path) -> None:
    client, found = mlflow_run(tracked)
    assert found.data.params == dict(flatten(yaml.safe_load((tracked / "config.yaml").read_text())))
    assert found.data.params["schedule.iters"] == "4"
    assert found.data.params["student.config"].startswith("pspnet/")
    assert found.info.run_name == "tiny/baseline seed 5"
    tags = found.data.tags
    assert [tags[name] for name in ("group", "seed", "dataset")] == ["tiny/baseline", "5", "camvid"]
    assert (found.info.status, found.info.lifecycle_stage) == ("FINISHED", "active")
    run_id = found.info.run_id
    assert {file.path for file in client.list_artifacts(run_id)} == STUDENT_FILES | {"images"}
    for name in STUDENT_FILES:
        stored = Path(client.download_artifacts(run_id, name, str(tmp_path)))
        assert stored.read_bytes() == (tracked / name).read_bytes()
    pictures = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
    assert len(pictures) == 4  # two images in two validations
    picture = Image.open(client.download_artifacts(run_id, pictures[0], str(tmp_path)))
    assert picture.size == (3 * 96, 64)
    assert np.asarray(picture).std() > 0


def test_all_trackers_have_the_scalars_of_tensorboard(tracked: Path) -> None:
    expected = scalars_of_tensorboard(tracked)
    assert "gradient_norm/backbone" in expected
    stored = scalars_of_mlflow(tracked)
    rows = only_offline_run(tracked).rows
    for name, values in expected.items():
        assert [(step, np.float32(value)) for step, value in stored[name]] == values, name
        assert [(row["iteration"], np.float32(row[name])) for row in rows if name in row] == values, name


class Killed(Exception):
    pass


def test_a_run_that_failed_continues_in_the_same_runs_without_repeated_steps(
    stores: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It logged step 3, and is resumed from the checkpoint of step 2 with other trackers named."""
    preset = load_preset(str(tiny), overrides=[*OVERRIDES, "schedule.workers=0"])
    backward = trainer.TrainStep.backward

    def stopped(self: trainer.TrainStep, batches: list, position: float) -> dict:
        if position == 3:
            raise Killed
        return backward(self, batches, position)

    monkeypatch.setattr(trainer.TrainStep, "backward", stopped)
    with pytest.raises(Killed):
        train(preset, tmp_path, "cpu", track=("wandb", "mlflow"))
    monkeypatch.undo()
    run = tmp_path / "baseline"
    assert not (run / "tensorboard").exists()
    assert [row["iteration"] for row in only_offline_run(run).rows] == [1, 2, 3]
    assert only_offline_run(run).exit_code == 1
    assert mlflow_run(run)[1].info.status == "FAILED"
    assert [step for step, _ in scalars_of_mlflow(run)["lr"]] == [1, 2, 3]
    first_id = mlflow_run(run)[1].info.run_id

    train(preset, tmp_path, "cpu", resume=True, track=ALL)
    folders = [read_offline_run(folder) for folder in offline_folders(run)]
    assert len({found.run.run_id for found in folders}) == 1
    assert [[row["iteration"] for row in found.rows] for found in folders] == [[1, 2, 3], [4]]
    _, found = mlflow_run(run)
    assert (found.info.run_id, found.info.status) == (first_id, "FINISHED")
    stored = scalars_of_mlflow(run)
    steps, _ = logged(run)
    assert stored["lr"] == [(step["iter"], step["lr"]) for step in steps]
    assert [step for step, _ in stored["mIoU"]] == [2, 4]
    assert [step for step, _ in scalars_of_tensorboard(run)["lr"]] == [3, 4]  # named since the resume
    errors = capfd.readouterr().err
    assert f"mlflow: resumed run {first_id} in sqlite:///" in errors
    assert "no API key, so the run stays offline" in errors


@pytest.mark.usefixtures("stores")
def test_the_command_that_shows_a_run_works_without_mlflows_server_too(monkeypatch: pytest.MonkeyPatch) -> None:
    view = "mlflow ui --backend-store-uri sqlite:///"
    for server, words in ((None, f"{install_command('mlflow')} && {view}"), ("flask", f"to view it: {view}")):
        monkeypatch.setattr(mlflow_tracker, "find_spec", lambda _, found=server: found)
        assert words in mlflow_tracker._connect()[1]
