"""Servers that do not answer, and what a resumed run logs again: the trackers alone, without training."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rmrkd_cli.training.trackers import wandb as wandb_tracker
from rmrkd_cli.training.trackers.base import LoggedBefore, TrackedRun
from rmrkd_cli.training.trackers.group import Trackers
from rmrkd_cli.training.trackers.store import read_states
from tests.helpers.wandb_file import offline_folders, read_offline_run

KEY = "k" * 40
Patch = pytest.MonkeyPatch


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Patch) -> Patch:
    """An account and folders of its own. The limits that MLflow's tracker sets are forgotten afterwards."""
    folder = tmp_path_factory.mktemp("stores")
    monkeypatch.setenv("NETRC", str(folder / "no-netrc"))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_MODE", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(20)
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _new_session() -> Iterator[None]:
    """wandb reads its environment once a session."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def tracked(path: Path, messages: list[str], **facts: object) -> TrackedRun:
    return TrackedRun(
        path=path, preset="tiny", role="distill", method="cwd", seed=3, dataset="camvid", config={"a": {"b": 1}},
        facts={}, log=messages.append, warn=messages.append, **facts,  # type: ignore[arg-type]
    )  # fmt: skip


def log_steps(path: Path, *steps: int, names: tuple[str, ...] = ("wandb",), **facts: object) -> list[str]:
    """Log a learning rate at each step, and return the messages."""
    messages: list[str] = []
    trackers = Trackers()
    with trackers.closed_at_end():
        trackers.open(names, tracked(path, messages, **facts))
        for step in steps:
            trackers.log_step({"lr": step / 10}, step)
    return messages


def rows(path: Path) -> list[list[tuple[int, int]]]:
    """Return step and iteration of each row, for each offline folder."""
    folders = [read_offline_run(folder) for folder in offline_folders(path)]
    return [[(row["_step"], row["iteration"]) for row in found.rows] for found in folders]


def test_wandb_stays_offline_if_its_server_does_not_answer(
    environment: Patch, silent_server: str, tmp_path: Path
) -> None:
    environment.setenv("WANDB_API_KEY", KEY)
    environment.setenv("WANDB_BASE_URL", f"http://{silent_server}")
    environment.setattr(wandb_tracker, "_INIT_SECONDS", 3.0)
    began = time.monotonic()
    failed, described = log_steps(tmp_path, 1, 2)
    assert time.monotonic() - began < 60
    assert failed.startswith("wandb: ")
    assert failed.endswith("; the run stays offline")
    assert KEY not in failed + described
    (folder,) = (tmp_path / "wandb").glob("*run-*[0-9a-f]")
    assert described.endswith(f"; to upload it: wandb sync {folder}")
    assert rows(tmp_path) == [[(1, 1), (2, 2)]]
    assert KEY not in (tmp_path / "trackers.json").read_text()


def test_a_wrong_key_is_not_asked_for(environment: Patch, tmp_path: Path) -> None:
    environment.setenv("WANDB_API_KEY", "short")
    failed, _ = log_steps(tmp_path, 1)
    assert failed == "wandb: WANDB_API_KEY invalid: API key must have 40+ characters, has 5.; the run stays offline"
    assert rows(tmp_path) == [[(1, 1)]]


def test_wandb_takes_names_from_its_environment(environment: Patch, tmp_path: Path) -> None:
    environment.setenv("WANDB_MODE", "offline")
    environment.setenv("WANDB_PROJECT", "mine")
    environment.setenv("WANDB_RUN_GROUP", "group of mine")
    environment.setenv("WANDB_RUN_ID", "sweep-7")
    (message,) = log_steps(tmp_path, 1)
    assert message.startswith("wandb: offline run sweep-7; to upload it: wandb sync ")
    found = read_offline_run(*offline_folders(tmp_path)).run
    assert (found.project, found.run_group, found.run_id) == ("mine", "group of mine", "sweep-7")
    assert (found.display_name, list(found.tags)) == ("tiny/distill-cwd seed 3", ["camvid", "cwd"])


def test_a_killed_run_of_wandb_continues_with_the_row_that_was_lost(environment: Patch, tmp_path: Path) -> None:
    """wandb writes a row when the next one begins: of a process that was killed the last row is missing."""
    environment.setenv("WANDB_MODE", "offline")
    log_steps(tmp_path, 1, 2, 3)
    states = read_states(tmp_path)
    assert states["wandb"].pop("closed_at") == 3
    log_steps(tmp_path, 2, 3, 4, iteration=1, before=LoggedBefore((1, 2, 3, 4), 2))  # closed at 3
    assert rows(tmp_path) == [[(1, 1), (2, 2), (3, 3)], [(4, 4)]]
    (tmp_path / "trackers.json").write_text('{"wandb": {"id": "killed"}}')
    log_steps(tmp_path, 3, 4, 5, iteration=2, before=LoggedBefore((1, 2, 3, 4), 2))
    assert rows(tmp_path)[2] == [(4, 4), (5, 5)]


def test_a_validation_of_the_last_row_gets_a_row_of_its_own(environment: Patch, tmp_path: Path) -> None:
    """The run was stopped between a step and its validation, so that wandb has the row of the step already."""
    environment.setenv("WANDB_MODE", "offline")
    log_steps(tmp_path, 1, 2)
    trackers = Trackers()
    with trackers.closed_at_end():
        trackers.open(("wandb",), tracked(tmp_path, [], iteration=2, before=LoggedBefore((1, 2), 0)))
        trackers.log_validation({"mIoU": 5.0}, {"road": 7.0}, 2)
        trackers.log_step({"lr": 0.3}, 3)
    (_, folder) = offline_folders(tmp_path)
    first, second = read_offline_run(folder).rows
    assert (first["iteration"], first["mIoU"], first["IoU/road"]) == (2, 5, 7)
    assert (second["iteration"], second["lr"]) == (3, 0.3)
    assert first["_step"] < second["_step"]


@pytest.mark.parametrize(("step", "logged", "validated"), [(5, 4, 2), (2, 1, 1), (0, 0, 0)])
def test_a_resumed_run_on_a_server_logs_what_the_server_lacks(
    step: int, logged: int, validated: int, tmp_path: Path
) -> None:
    """The server knows its next step; the log of the run may be ahead of it, or behind."""
    tracker = wandb_tracker.WandbTracker.__new__(wandb_tracker.WandbTracker)
    tracker._state, tracker._run = {"closed_at": 9}, SimpleNamespace(resumed=True, step=step)
    tracker._skip_repeated(tracked(tmp_path, [], before=LoggedBefore((1, 2, 3), 2)))
    assert (tracker._logged, tracker._logged_validation, tracker._step) == (logged, validated, logged)
    assert tracker._state == {}


@pytest.mark.parametrize("address", ["refused", "silent"])
def test_a_run_continues_without_mlflow_if_its_server_does_not_answer(
    address: str, environment: Patch, silent_server: str, tmp_path: Path
) -> None:
    import mlflow  # noqa: F401  (takes seconds, which are not counted)

    server = silent_server if address == "silent" else "127.0.0.1:9"
    environment.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{server}")
    if address == "silent":
        environment.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    began = time.monotonic()
    (message,) = log_steps(tmp_path, 1, 2, names=("mlflow",))
    assert time.monotonic() - began < 60
    assert message.startswith("mlflow: ")
    assert message.endswith("; the run continues without mlflow")
    assert "secret" not in message
    assert not (tmp_path / "trackers.json").exists()


def test_mlflow_waits_no_longer_than_its_environment_says(environment: Patch, tmp_path: Path) -> None:
    environment.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    environment.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log_steps(tmp_path, 1, names=("mlflow",))
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"  # rmrkd's, where the environment names none
