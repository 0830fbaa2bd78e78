"""The jobs of worker processes, as data that can be written to a file.

A job names its function by `entry_point`, because training and evaluation are above this package.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.presets.user_code import allow_files


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Train one role of a preset in an existing run directory.

    Attributes:
        preset: Resolved, with the role to train and the seed.
        device: "cpu" or "cuda".
        image_cache: File of decoded training images, or None.
        code: Python files that custom losses may be loaded from.
        force: Resume even if the number of workers or the batch size changed.
        only_measure: Measure the teacher, and train nothing.
        track: Trackers that rank 0 logs to.
    """

    entry_point: ClassVar[str] = "rmrkd_cli.training.trainer:run_training"

    preset: Preset
    run_dir: str
    device: str
    image_cache: str | None = None
    code: tuple[str, ...] = ()
    force: bool = False
    only_measure: bool = False
    track: tuple[str, ...] = ("tensorboard",)

    @property
    def role(self) -> str:
        """`teacher`, `baseline` or `distill`."""
        return self.preset.role

    @property
    def name(self) -> str:
        """Unique among the jobs of one command."""
        return f"{self.role}-{self.preset.seed}" + ("-measured" if self.only_measure else "")


@dataclass(frozen=True, kw_only=True)
class EvalJob:
    """Evaluate one checkpoint, and write the record to `output`.

    Attributes:
        mode: "whole" or "slide".
        crop, stride: (height, width) of the sliding window and of its steps; None: as in training.
        batch_size: Images of equal size in one forward pass; None: what is fastest on the device.
        workers: Loader processes of each worker; None: from the machine's cores.
        label_ids: Write predictions with the ids of the data set's test server. None: for the test split, if the
            data set has such ids.
        require_labels: Stop if no image has labels, because the caller needs a record.
        code: Python files that networks may be built from.
        file_input: Of an ONNX or TorchScript file: `input`, `output` and `classes` as in a preset's teacher.
        boundary_width: Of the boundaries that are counted, as a share of the image's diagonal; None: not counted.
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
    workers: int | None = None
    save_predictions: str | None = None
    label_ids: bool | None = None
    require_labels: bool = False
    max_images: int | None = None
    allow_partial: bool = False
    code: tuple[str, ...] = ()
    file_input: dict[str, Any] | None = None
    boundary_width: float | None = None


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """Check and download on another machine what the first one has checked, before workers of both start.

    Attributes:
        preset: The user's preset.
        runs: Preset of each run, and whether the same command trains its teacher.
        workers: On all machines.
        code: Python files that custom losses may be loaded from.
    """

    entry_point: ClassVar[str] = "rmrkd_cli.training.run:prepare_machine"

    preset: Preset
    runs: tuple[tuple[Preset, bool], ...]
    device: str
    workers: int
    code: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CacheJob:
    """Run teachers over the training images, and store their outputs.

    Attributes:
        presets: Of the teachers; the first one's images are used.
        out: Folder of the outputs.
        scales, flip: Averaged over.
        top_k: Classes to store of each position; None: all.
        batch_size, workers: As for `EvalJob`.
        code: Python files that networks may be built from.
    """

    entry_point: ClassVar[str] = "rmrkd_cli.training.caching.worker:run_caching"

    presets: tuple[Preset, ...]
    out: str
    device: str
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    top_k: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    code: tuple[str, ...] = ()


Job = TrainJob | EvalJob | PrepareJob | CacheJob
_KINDS: dict[str, type[TrainJob] | type[EvalJob] | type[PrepareJob] | type[CacheJob]] = {
    "train": TrainJob, "eval": EvalJob, "prepare": PrepareJob, "cache": CacheJob,
}  # fmt: skip


def run_job(job: Job) -> None:
    """Call the job's function in this process."""
    allow_files(job.code)
    module, _, function = job.entry_point.partition(":")
    getattr(import_module(module), function)(job)


def job_to_json(job: Job) -> str:
    """Return a job as JSON for other processes. With one worker the job is used as it is."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(job, cls))
    data = asdict(job)
    if isinstance(job, CacheJob):
        data["presets"] = [preset.model_dump(mode="json") for preset in job.presets]
    elif not isinstance(job, EvalJob):
        data["preset"] = job.preset.model_dump(mode="json")
    if isinstance(job, PrepareJob):
        data["runs"] = [(preset.model_dump(mode="json"), in_plan) for preset, in_plan in job.runs]
    return json.dumps({"kind": kind, **data})


def job_from_json(text: str) -> Job:
    """Return the job that `job_to_json` wrote.

    The preset passes the schema again: JSON has no tuples and no types of losses, and the schema restores them.
    """
    data = json.loads(text)
    cls = _KINDS[data.pop("kind")]
    if cls is EvalJob:
        data |= {key: tuple(data[key]) for key in ("scales", "crop", "stride", "code") if data[key] is not None}
    elif cls is CacheJob:
        data |= {key: tuple(data[key]) for key in ("scales", "code")}
        data["presets"] = tuple(map(Preset.model_validate, data["presets"]))
    else:
        data |= {"preset": Preset.model_validate(data["preset"]), "code": tuple(data["code"])}
    if cls is TrainJob:
        data["track"] = tuple(data["track"])
    if cls is PrepareJob:
        data["runs"] = tuple((Preset.model_validate(preset), in_plan) for preset, in_plan in data["runs"])
    return cls(**data)


def write_job(job: Job, path: Path) -> None:
    """Write a job to a file."""
    path.write_text(job_to_json(job), encoding="utf-8")


def read_job(path: Path) -> Job:
    """Read a job from a file."""
    return job_from_json(path.read_text(encoding="utf-8"))
