"""Weights & Biases: a run on its server, or in an offline folder that `wandb sync` uploads.

wandb writes through a process of its own, so logging does not wait for the server.
"""

from __future__ import annotations

import netrc
import os
import secrets
import shlex
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rmrkd_cli.errors import RunError
from rmrkd_cli.training.trackers.base import Image, Outcome, TrackedRun, Tracker
from rmrkd_cli.training.trackers.messages import describe_error

_PROJECT = "rmrkd"
_INIT_SECONDS = 20.0  # to reach the server; wandb's own limit is 90
_FLUSH_SECONDS = 1.0  # between writes to the offline file; wandb's own is 15, which a killed run loses
_EXIT_CODES = {"finished": 0, "stopped": 143, "failed": 1}


class WandbTracker(Tracker):
    """A run of Weights & Biases.

    The step of a row is its iteration, which wandb takes in ascending order only. `iteration` is in each row, as the x
    axis of all charts.
    """

    name = "wandb"

    def __init__(self, run: TrackedRun) -> None:
        self._state, self._log = run.state, run.log
        known = self._state.get("id")
        self._state["id"] = self._id = known or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        offline = self._choose_offline()
        self._run = self._start(run, offline=offline)
        self._run.define_metric("iteration", hidden=True)
        self._run.define_metric("*", step_metric="iteration")
        self._iteration, self._step = 0, 0
        self._logged = self._logged_validation = 0
        if known:
            self._skip_repeated(run)
        self._sync_command = _sync_command(Path(self._run.dir).parent)
        run.log(self._describe())

    def _choose_offline(self) -> bool:
        """Return whether the run is offline: as WANDB_MODE says, or because wandb would ask for an API key."""
        os.environ.setdefault("WANDB_SILENT", "true")  # it would write between the lines of the progress display
        import wandb

        settings = wandb.setup().settings
        if settings.mode in ("offline", "dryrun"):
            return True
        if settings.mode == "disabled" or _has_key(settings):
            return False
        self._log("wandb: no API key, so the run stays offline; to log in: `wandb login`, or set WANDB_API_KEY")
        return True

    def _start(self, run: TrackedRun, *, offline: bool) -> Any:
        """Start the run; offline if the server cannot be reached or rejects it."""
        import wandb

        if offline:
            return self._init(run, mode="offline")
        folder = Path(os.environ.get("WANDB_DIR") or run.path) / "wandb"
        before = set(folder.glob(f"run-*-{self._id}"))
        try:
            return self._init(run)
        except Exception as error:
            run.warn(f"wandb: {describe_error(error)}; the run stays offline")
        if wandb.run is not None:  # of the program that called rmrkd
            raise RunError("another wandb run is active in this process")
        wandb.teardown()  # its process still has the run's id
        for failed in set(folder.glob(f"run-*-{self._id}")) - before:
            shutil.rmtree(failed, ignore_errors=True)
        return self._init(run, mode="offline")

    def _init(self, run: TrackedRun, **mode: Any) -> Any:
        """Call `wandb.init`; what the environment sets is left to wandb."""
        import wandb

        from_environment: dict[str, dict[str, Any]] = {
            "WANDB_PROJECT": {"project": _PROJECT},
            "WANDB_NAME": {"name": run.name},
            "WANDB_RUN_GROUP": {"group": run.group},
            "WANDB_JOB_TYPE": {"job_type": run.role},
            "WANDB_TAGS": {"tags": [run.dataset, run.method] if run.role == "distill" else [run.dataset]},
            "WANDB_DIR": {"dir": str(run.path.absolute())},
        }
        chosen = {
            k: v for name, values in from_environment.items() if not os.environ.get(name) for k, v in values.items()
        }
        known = wandb.Settings.model_fields
        settings: dict[str, Any] = {"silent": True, "init_timeout": _INIT_SECONDS}
        if not os.environ.get("WANDB_CONSOLE"):
            settings["console"] = "off"  # a progress display is no log
        if "x_transaction_log_flush_interval" in known:
            settings["x_transaction_log_flush_interval"] = _FLUSH_SECONDS
        return wandb.init(
            id=self._id, resume="allow", reinit="create_new", config={**run.config, "rmrkd": dict(run.facts)},
            allow_val_change=True, settings=wandb.Settings(**settings), **chosen, **mode,
        )  # fmt: skip

    def _skip_repeated(self, run: TrackedRun) -> None:
        """Set the iterations up to which nothing is logged again.

        The server knows the last row. An offline run is closed with its last iteration in `state`; without it the
        process was killed, and its last row is lost, because wandb writes a row when the next one begins.
        """
        steps, validation = run.before.steps, run.before.validation
        last = self._state.pop("closed_at", steps[-2] if len(steps) > 1 else 0)
        if self._run.resumed:
            last = self._run.step - 1
        self._logged, self._logged_validation = max(last, 0), min(validation, max(last, 0))
        self._step = self._logged

    def _describe(self) -> str:
        if self._run.settings.mode == "disabled":
            return "wandb: switched off by WANDB_MODE=disabled"
        if self._run.offline:
            return f"wandb: offline run {self._id}; to upload it: {self._sync_command}"
        return f"wandb: {'resumed ' if self._run.resumed else ''}run {self._id} at {self._run.url}"

    def log_step(self, scalars: Mapping[str, float], iteration: int) -> None:
        if iteration > self._logged:
            self._add(scalars, iteration)

    def log_validation(self, scalars: Mapping[str, float], class_iou: Mapping[str, float], iteration: int) -> None:
        if iteration > self._logged_validation:
            self._add({**scalars, **{f"IoU/{name}": value for name, value in class_iou.items()}}, iteration)

    def log_images(self, images: Mapping[str, Image], iteration: int) -> None:
        import wandb

        if iteration > self._logged_validation:
            pictures = {f"validation/{name}": wandb.Image(image) for name, image in images.items()}
            self._add(pictures, iteration)

    def _add(self, values: Mapping[str, Any], iteration: int) -> None:
        """Add values to the row of an iteration; a row that is already written gets a new one behind it."""
        if iteration != self._iteration:
            self._iteration, self._step = iteration, max(iteration, self._step + 1)
        self._run.log({"iteration": iteration, **values}, step=self._step)

    def log_result(self, scalars: Mapping[str, float], files: Sequence[Path], iteration: int) -> None:
        import wandb

        for name, value in scalars.items():
            self._run.summary[f"result/{name}"] = value
        artifact = wandb.Artifact(f"student-{self._id}", "model", metadata={"iteration": iteration})
        for file in files:
            artifact.add_file(str(file), name=file.name)
        self._run.log_artifact(artifact)

    def close(self, outcome: Outcome, seconds: float) -> None:
        self._state["closed_at"] = max(self._iteration, self._logged)
        errors: list[Exception] = []

        def finish() -> None:
            try:
                self._run.finish(exit_code=_EXIT_CODES[outcome])
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=finish, name="wandb-finish", daemon=True)
        thread.start()
        thread.join(seconds)
        if seconds and thread.is_alive():
            raise TimeoutError(
                f"not everything was uploaded within {seconds:.0f} s; to upload it: {self._sync_command}"
            )
        if seconds and errors:
            raise errors[0]


def _sync_command(folder: Path) -> str:
    """Return the command that uploads the folder of a run, with its path from the current folder if it is below."""
    own = Path.cwd()
    return f"wandb sync {shlex.quote(str(folder.relative_to(own) if folder.is_relative_to(own) else folder))}"


def _has_key(settings: Any) -> bool:
    """Return whether wandb finds a way to log in without asking: environment, settings, or netrc."""
    if settings.api_key or getattr(settings, "identity_token_file", None) or os.environ.get("WANDB_API_KEY"):
        return True
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for file in files:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(os.path.expanduser(file)).authenticators(urlsplit(settings.base_url).hostname or ""):
                return True
    return False
