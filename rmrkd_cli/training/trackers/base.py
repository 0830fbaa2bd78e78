"""The interface of a tracker, and the facts of a run that it gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3)
# How a run ended: with its result, by a signal after its state was saved, or by an error.
Outcome = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class LoggedBefore:
    """What a resumed run had logged when its process ended, also after the checkpoint it is resumed from.

    Attributes:
        steps: Iterations of the logged steps, ascending.
        validation: Iteration of the last validation; 0 for none.
    """

    steps: Sequence[int] = ()
    validation: int = 0


@dataclass(frozen=True)
class TrackedRun:
    """One role of one seed, as trackers see it.

    Attributes:
        path: The run directory.
        preset, role, method, dataset: Names.
        config: The whole preset, as in `config.yaml`.
        facts: Versions, device and number of workers.
        iteration: Of the checkpoint that the run is resumed from; 0 for a new run.
        before: See `LoggedBefore`.
        state: What the tracker stored in the run directory, such as the id of its run; it may change it.
        log, warn: Print a message, and a warning.
    """

    path: Path
    preset: str
    role: str
    method: str
    seed: int
    dataset: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    log: Callable[[str], None]
    warn: Callable[[str], None]
    iteration: int = 0
    before: LoggedBefore = LoggedBefore()
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Name that all seeds of one experiment share: `PRESET/ROLE`, with the method `PRESET/ROLE-METHOD`."""
        return f"{self.preset}/{self.role}" + (f"-{self.method}" if self.role == "distill" else "")

    @property
    def name(self) -> str:
        """Name of the run: its group and its seed."""
        return f"{self.group} seed {self.seed}"


class Tracker(ABC):
    """Receives what one run logs; made when the run starts. Any exception switches the tracker off, not the run.

    Scalars have the names of TensorBoard. mIoU and IoU are in %.
    """

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, run: TrackedRun) -> None: ...

    @abstractmethod
    def log_step(self, scalars: Mapping[str, float], iteration: int) -> None:
        """Log losses, learning rate, gradient norms and seconds of a step."""

    @abstractmethod
    def log_validation(self, scalars: Mapping[str, float], class_iou: Mapping[str, float], iteration: int) -> None:
        """Log a validation.

        Args:
            scalars: `mIoU` and `best mIoU`.
            class_iou: Class → IoU, without classes that do not occur.
        """

    @abstractmethod
    def log_images(self, images: Mapping[str, Image], iteration: int) -> None:
        """Log the pictures of a validation: sample → image, labels and prediction side by side."""

    def log_result(self, scalars: Mapping[str, float], files: Sequence[Path], iteration: int) -> None:  # noqa: B027
        """Log the metrics of `result.json`, and store files of the run directory."""

    def flush(self) -> None:  # noqa: B027
        """Write what was logged; called before a checkpoint is saved."""

    @abstractmethod
    def close(self, outcome: Outcome, seconds: float) -> None:
        """End the tracker's run.

        Args:
            seconds: Wait no longer for a server. 0: do not wait.
        """
