"""MLflow: a run on a tracking server, or in an SQLite file with a folder of artifacts.

After the start all calls run in a thread, so logging does not wait for a server. They go through MLflow's client, not
through `mlflow.start_run`: an active run of the calling program stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rmrkd_cli.installation.requirements import install_command
from rmrkd_cli.training.trackers.background import Background
from rmrkd_cli.training.trackers.base import Image, Outcome, TrackedRun, Tracker
from rmrkd_cli.training.trackers.messages import hide_secrets

_EXPERIMENT = "rmrkd"
# Of one request, while the run starts and afterwards: with MLflow's own values a lost server costs many minutes.
_START_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_\-./ ]")  # in names of metrics, parameters and images
_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000
_MAX_PARAM_LENGTH = 6000  # characters
_UNKNOWN_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowTracker(Tracker):
    """A run of MLflow. A resumed run keeps its parameters, because MLflow does not let them change."""

    name = "mlflow"

    def __init__(self, run: TrackedRun) -> None:
        limits = {name: value for name, value in _START_LIMITS.items() if not os.environ.get(name)}
        os.environ.update(limits)
        try:
            self._client, address = _connect()
            self._logged = self._validated = 0  # iterations up to which the store has everything
            self._id = self._resume(run.state.get("id"))
            resumed = bool(self._id)
            if not resumed:
                self._id = run.state["id"] = self._create(run)
            self._log_params(run)
        finally:
            os.environ.update({name: _LIMITS[name] for name in limits})
        self._background = Background("mlflow")
        run.log(f"mlflow: {'resumed ' if resumed else ''}run {self._id} in {address}")

    def _resume(self, run_id: str | None) -> str:
        """Open a run again, and return its id; empty where this store does not have it."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return ""
        try:
            found = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in _UNKNOWN_RUN:
                return ""
            raise
        if found.info.lifecycle_stage != "active":  # deleted
            return ""
        self._client.update_run(run_id, status="RUNNING")
        self._logged, self._validated = (self._last_iteration(run_id, name) for name in ("lr", "mIoU"))
        return run_id

    def _last_iteration(self, run_id: str, metric: str) -> int:
        return max((value.step for value in self._client.get_metric_history(run_id, metric)), default=0)

    def _create(self, run: TrackedRun) -> str:
        tags = {
            "group": run.group, "preset": run.preset, "role": run.role, "seed": str(run.seed),
            "dataset": run.dataset, "mlflow.source.name": "rmrkd train", "mlflow.source.type": "LOCAL",
            **({"method": run.method} if run.role == "distill" else {}),
            **{f"rmrkd.{name}": str(value) for name, value in run.facts.items()},
        }  # fmt: skip
        return str(self._client.create_run(_experiment_id(self._client), run_name=run.name, tags=tags).info.run_id)

    def _log_params(self, run: TrackedRun) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params
        values = {_clean(key): value[:_MAX_PARAM_LENGTH] for key, value in flatten(run.config)}
        new = [Param(key, value) for key, value in values.items() if key not in known]
        for start in range(0, len(new), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=new[start : start + _PARAMS_AT_ONCE])

    def log_step(self, scalars: Mapping[str, float], iteration: int) -> None:
        if iteration > self._logged:
            self._log(scalars, iteration)

    def log_validation(self, scalars: Mapping[str, float], class_iou: Mapping[str, float], iteration: int) -> None:
        if iteration > self._validated:
            self._log({**scalars, **{f"IoU/{name}": value for name, value in class_iou.items()}}, iteration)

    def log_images(self, images: Mapping[str, Image], iteration: int) -> None:
        if iteration > self._validated:
            for name, image in images.items():
                self._send("log_image", image, key=_clean(f"validation/{name}"), step=iteration)

    def log_result(self, scalars: Mapping[str, float], files: Sequence[Path], iteration: int) -> None:
        self._log({f"result/{name}": value for name, value in scalars.items()}, iteration)
        for file in files:
            self._send("log_artifact", str(file))

    def close(self, outcome: Outcome, seconds: float) -> None:
        self._background.close(lambda: self._client.set_terminated(self._id, _STATUS[outcome]), seconds)

    def _log(self, scalars: Mapping[str, float], iteration: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_clean(name), value, now, iteration) for name, value in scalars.items()]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._send("log_batch", metrics=metrics[start : start + _METRICS_AT_ONCE])

    def _send(self, method: str, *values: Any, **named: Any) -> None:
        """Call a method of the client in the background."""
        self._background.run(lambda: getattr(self._client, method)(self._id, *values, **named))


def _connect() -> tuple[Any, str]:
    """Return MLflow's client, and the address of its store without secrets."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it reports to MLflow's makers
    import mlflow

    if not os.environ.get("MLFLOW_LOGGING_LEVEL"):
        for name in ("mlflow", "alembic"):  # which report each table of a new database
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # reports each retry
    address = hide_secrets(mlflow.get_tracking_uri())
    if address.startswith(("http", "databricks")):
        return mlflow.MlflowClient(), address
    install = "" if find_spec("flask") else f"{install_command('mlflow')} && "  # mlflow-skinny has no server
    return mlflow.MlflowClient(), f"{address}; to view it: {install}mlflow ui --backend-store-uri {address}"


def _experiment_id(client: Any) -> str:
    """Return the id of the experiment that the environment names, else of `rmrkd`; create it if there is none."""
    from mlflow.exceptions import MlflowException

    if own := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return own
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another run was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _clean(name: str) -> str:
    """Replace the characters that MLflow does not allow in names."""
    return _FORBIDDEN.sub("_", name)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted key and value as text; lists and empty mappings as JSON."""
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, name)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)
