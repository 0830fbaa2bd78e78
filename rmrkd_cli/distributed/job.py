"""What a worker process is told to do; plain data, so that it can cross a process boundary.

A job names its function by `entry_point`, because training and evaluation lie above this package.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from rmrkd_cli.presets.schema import Preset


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One role of one preset, to be trained in a directory that is already claimed.

    Attributes:
        preset: The resolved preset, as plain data.
        role: "teacher", "baseline" or "distill".
        device: "cpu" or "cuda".
        decoded: Where the decoded training images are kept, if anywhere.
        code: Files that the command line names, whose losses may run.
        force: Going on with another number of workers or images a step is wanted.
        only_measure: Nothing is trained; the teacher is measured.
    """

    entry_point: ClassVar[str] = "rmrkd_cli.training.trainer:run_training"

    preset: dict[str, Any]
    role: str
    run_dir: str
    device: str
    decoded: str | None = None
    code: tuple[str, ...] = ()
    force: bool = False
    only_measure: bool = False

    @property
    def name(self) -> str:
        """Tells it from the other jobs of one command."""
        return f"{self.role}-{self.preset.get('seed', 0)}" + ("-measured" if self.only_measure else "")

    def parsed(self) -> Preset:
        return Preset.model_validate(self.preset)


@dataclass(frozen=True, kw_only=True)
class EvalJob:
    """One checkpoint, to be evaluated; the record is left in `output`.

    Attributes:
        mode: "whole" or "slide".
        crop, stride: (height, width) of the window that slides, and of its steps; none: as its training had it.
        batch_size: Images of equal size at once; none: what is fastest on the device.
        workers: Loader processes.
        label_ids: Predictions are written with the ids of the data set's test server; none: for the test split,
            where it has such ids.
        require_labels: Stop if no image has labels, because the caller needs a record.
    """

    entry_point: ClassVar[str] = "rmrkd_cli.evaluation.run:run_evaluation"

    preset: dict[str, Any] | None
    checkpoint: str
    dataset: str | None
    data_root: str | None
    device: str
    output: str
    split: str = "val"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    mode: str = "whole"
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    batch_size: int | None = None
    workers: int = 2
    save_predictions: str | None = None
    label_ids: bool | None = None
    require_labels: bool = False
    max_images: int | None = None
    allow_partial: bool = False


Job = TrainJob | EvalJob
_KINDS: dict[str, type[TrainJob] | type[EvalJob]] = {"train": TrainJob, "eval": EvalJob}


def write_job(job: Job, path: Path) -> None:
    kind = next(name for name, cls in _KINDS.items() if isinstance(job, cls))
    path.write_text(json.dumps({"kind": kind, **asdict(job)}), encoding="utf-8")


def read_job(path: Path) -> Job:
    raw = json.loads(path.read_text(encoding="utf-8"))
    cls = _KINDS[raw.pop("kind")]
    if cls is EvalJob:
        raw |= {key: tuple(raw[key]) for key in ("scales", "crop", "stride") if raw[key] is not None}
    return cls(**raw)
