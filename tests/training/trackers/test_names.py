"""`--track`: the names, and the packages they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.training.trackers import names
from rmrkd_cli.training.trackers.names import parse_trackers, require_trackers
from tests.helpers.cli import rmrkd

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ("tensorboard",)),
        ("none", ()),
        ("wandb", ("wandb",)),
        ("tensorboard, MLflow,wandb", ("tensorboard", "mlflow", "wandb")),
        ("wandb,wandb", ("wandb",)),
        (["mlflow", "wandb"], ("mlflow", "wandb")),
        ([], ()),
    ],
)
def test_names(text: str | list[str] | None, expected: tuple[str, ...]) -> None:
    assert parse_trackers(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wanbd", "`--track wanbd`: unknown tracker `wanbd`, did you mean `wandb`?"),
        ("none,wandb", "`--track none,wandb`: `none` excludes other trackers"),
        ("wandb,", "`--track wandb,`: unknown tracker ``, known: tensorboard, wandb, mlflow, none"),
    ],
)
def test_wrong_names_are_rejected_before_anything_is_read(text: str, message: str, tmp_path: Path) -> None:
    outcome = rmrkd("train", "--preset", tmp_path / "missing.yaml", "--track", text)
    assert (outcome.exit_code, outcome.message) == (2, message)
    assert outcome.hint == "--track tensorboard,wandb,mlflow names one or several, --track none no tracker"


@pytest.fixture
def installed(monkeypatch: Patch) -> dict[str, str | None]:
    """Versions of distributions; the others are as they are."""
    versions: dict[str, str | None] = {}
    real: Any = names.version_of
    monkeypatch.setattr(names, "version_of", lambda name: versions[name] if name in versions else real(name))
    return versions


def refused(name: str) -> RmrkdError:
    with pytest.raises(RmrkdError) as error:
        require_trackers(["tensorboard", name])
    assert error.value.exit_code == 2
    return error.value


def test_a_missing_package_stops_before_the_first_step_with_the_command_that_installs_it(
    installed: dict[str, str | None], monkeypatch: Patch, tiny: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    for name, packages in (("wandb", "'wandb>="), ("mlflow", "'mlflow-skinny>=")):
        outcome = rmrkd("train", "--preset", tiny, "--work-dir", tmp_path / "run", "--track", name, "--device", "cpu")
        assert (outcome.exit_code, outcome.message) == (
            2,
            f"`--track {name}` needs the package {name}, which is not installed",
        )
        assert " install " in outcome.hint
        assert packages in outcome.hint
    assert not (tmp_path / "run").exists()
    require_trackers(["tensorboard"])


def test_an_old_package_is_named(installed: dict[str, str | None]) -> None:
    installed["wandb"] = "0.12.0"
    error = refused("wandb")
    assert error.message.startswith("`--track wandb` needs wandb>=0.")
    assert error.message.endswith(", and 0.12.0 is installed")


def test_mlflow_needs_sqlalchemy_for_a_database_only(installed: dict[str, str | None], monkeypatch: Patch) -> None:
    installed["sqlalchemy"] = None
    for address in ("", "sqlite:///runs.db", "mysql+pymysql://host/db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert refused("mlflow").message == "`--track mlflow` needs the package sqlalchemy, which is not installed"
    for address in ("http://localhost:5000", "databricks"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        require_trackers(["mlflow"])
