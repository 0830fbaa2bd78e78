"""All trackers of a run. An error of one is printed once and switches it off; the run continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import Interrupted
from rmrkd_cli.training.trackers.base import Image, Outcome, TrackedRun, Tracker
from rmrkd_cli.training.trackers.messages import describe_error
from rmrkd_cli.training.trackers.store import read_states, write_states

_CLASSES = {"tensorboard": "TensorBoardTracker", "wandb": "WandbTracker", "mlflow": "MlflowTracker"}
_FINISH_SECONDS = 60.0  # to send what is left at the end of a run
_BYTES_A_SECOND = 1e6  # and more of it for the files
_STOP_SECONDS = 10.0  # after a signal, when a scheduler may kill the process soon


class Trackers:
    """The trackers that `--track` names. Before `open`, and on ranks other than the first, there are none."""

    def __init__(self) -> None:
        self._run: TrackedRun | None = None
        self._states: dict[str, dict[str, Any]] = {}
        self._trackers: dict[str, Tracker] = {}
        self._bytes = 0

    def open(self, names: Sequence[str], run: TrackedRun) -> None:
        """Start the trackers.

        Args:
            names: In `names.NAMES`.
            run: Its `state` is not used: each tracker gets its own.
        """
        self._run, self._states = run, read_states(run.path) if names else {}
        for name in names:
            try:
                cls: type[Tracker] = getattr(import_module(f"rmrkd_cli.training.trackers.{name}"), _CLASSES[name])
                self._trackers[name] = cls(replace(run, state=self._states.setdefault(name, {})))
            except Exception as error:
                self._warn(f"{name}: {describe_error(error)}; the run continues without {name}")
        self._save_states()

    @contextmanager
    def closed_at_end(self) -> Iterator[None]:
        """Close the trackers when the block ends, in whatever way."""
        try:
            yield
        except Interrupted:
            self.close("stopped")
            raise
        except BaseException:
            self.close("failed")
            raise
        self.close("finished")

    def log_step(self, scalars: Mapping[str, float], iteration: int) -> None:
        """Log the scalars of a step."""
        self._each(lambda tracker: tracker.log_step(scalars, iteration))

    def log_validation(self, scalars: Mapping[str, float], class_iou: Mapping[str, float], iteration: int) -> None:
        """Log a validation; see `Tracker.log_validation`."""
        self._each(lambda tracker: tracker.log_validation(scalars, class_iou, iteration))

    def log_images(self, images: Mapping[str, Image], iteration: int) -> None:
        """Log the pictures of a validation."""
        self._each(lambda tracker: tracker.log_images(images, iteration))

    def log_result(self, scalars: Mapping[str, float], files: Sequence[Path], iteration: int) -> None:
        """Log the metrics of the result, and store the files."""
        self._bytes = sum(file.stat().st_size for file in files)
        self._each(lambda tracker: tracker.log_result(scalars, files, iteration))

    def flush(self) -> None:
        """Write what was logged."""
        self._each(lambda tracker: tracker.flush())

    def close(self, outcome: Outcome) -> None:
        """End the run of each tracker."""
        seconds = _STOP_SECONDS if outcome == "stopped" else _FINISH_SECONDS + self._bytes / _BYTES_A_SECOND
        for name, tracker in self._trackers.items():
            try:
                tracker.close(outcome, seconds)
            except Exception as error:
                self._warn(f"{name}: {describe_error(error)}")
        if self._trackers:
            self._save_states()
        self._trackers = {}

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                self._warn(f"{name}: {describe_error(error)}; the run continues without {name}")
                del self._trackers[name]
                with suppress(Exception):  # one warning is enough
                    tracker.close("failed", 0)

    def _save_states(self) -> None:
        assert self._run is not None
        try:
            write_states(self._states, self._run.path)
        except Exception as error:
            self._warn(f"the ids of the trackers' runs are not stored: {describe_error(error)}")

    def _warn(self, text: str) -> None:
        assert self._run is not None
        self._run.warn(text)
