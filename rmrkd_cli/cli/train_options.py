"""The options of `rmrkd train`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_method, complete_preset, complete_recipe
from rmrkd_cli.cli.options import (
    DATA,
    DEVICES,
    LOAD_MATCHING,
    LOADER_PROCESSES,
    OUTPUT,
    DataRoot,
    Device,
    DeviceOption,
    Gpus,
    Unlabelled,
)

_WHAT, _NETWORKS, _SCHEDULE, _RUN_DIRECTORY = "What to train", "Networks", "Schedule", "Run directory"
_PRESETS = "the preset's"


class Role(str, Enum):
    teacher = "teacher"
    baseline = "baseline"
    distill = "distill"
    all = "all"


class Amp(str, Enum):
    off = "off"
    bf16 = "bf16"
    fp16 = "fp16"


class Cache(str, Enum):
    off = "off"
    ram = "ram"
    disk = "disk"


@dataclass(kw_only=True)
class TrainOptions:
    """The command line of `rmrkd train`."""

    preset: Annotated[
        str,
        option(
            "--preset",
            _WHAT,
            "Train the networks of this preset (list: rmrkd presets) or of your own YAML file.",
            metavar="NAME|FILE",
            autocompletion=complete_preset,
        ),
    ]
    role: Annotated[
        Role | None,
        option(
            "--role",
            _WHAT,
            "Train the teacher, the student alone (baseline), the student with the teacher (distill), or all of them "
            "and compare.",
            default=f"{_PRESETS}, usually distill",
            metavar="ROLE",
        ),
    ] = None
    method: Annotated[
        str | None,
        option(
            "--method",
            _WHAT,
            "Distil with this method (list: rmrkd methods) or with the loss CLASS of your Python FILE.",
            default=_PRESETS,
            metavar="NAME|FILE:CLASS",
            autocompletion=complete_method,
        ),
    ] = None
    recipe: Annotated[
        str | None,
        option(
            "--recipe",
            _WHAT,
            "Change the preset by this recipe (list: rmrkd recipes) or by your own YAML file, before --set.",
            default="none",
            metavar="NAME|FILE",
            autocompletion=complete_recipe,
        ),
    ] = None
    code: Annotated[
        list[str] | None,
        option(
            "--code",
            _WHAT,
            "Let this Python file run, for losses or networks; repeatable.",
            metavar="FILE",
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        option(
            "--set",
            _WHAT,
            "Change any key of the preset, such as schedule.lr=0.02; repeatable.",
            metavar="KEY.PATH=VALUE",
        ),
    ] = None
    seed: Annotated[
        int | None,
        option("--seed", _WHAT, "Set the seed of weights, data order and augmentation.", default=_PRESETS, min=0),
    ] = None
    seeds: Annotated[
        str | None,
        option("--seeds", _WHAT, "Train all roles for each of these seeds, in <work dir>/seed-N.", metavar="N,N"),
    ] = None

    data_root: DataRoot = None
    unlabelled: Unlabelled = None
    workers: Annotated[
        int | None,
        option("--workers", DATA, LOADER_PROCESSES, default=f"{_PRESETS}, usually from the machine's cores", min=0),
    ] = None
    cache: Annotated[
        Cache | None,
        option(
            "--cache", DATA, "Keep decoded training images in memory or on disk.", default=f"{_PRESETS}, usually off"
        ),
    ] = None
    skip_corrupt: Annotated[
        bool, option("--skip-corrupt", DATA, "Replace a training image that cannot be read by the next one.")
    ] = False

    teacher_checkpoint: Annotated[
        str | None,
        option(
            "--teacher-checkpoint",
            _NETWORKS,
            "Load the teacher from this file, or start it from random weights with none.",
            default=_PRESETS,
            metavar="FILE|none",
        ),
    ] = None
    teacher_outputs: Annotated[
        str | None,
        option(
            "--teacher-outputs",
            _NETWORKS,
            "Train from the outputs that rmrkd cache-teacher stored in this folder, without running the teacher.",
            default=_PRESETS,
            metavar="DIR",
        ),
    ] = None
    student_checkpoint: Annotated[
        str | None,
        option(
            "--student-checkpoint",
            _NETWORKS,
            "Start the student from this network or backbone, or from random weights with none.",
            default=_PRESETS,
            metavar="FILE|none",
        ),
    ] = None
    allow_partial: Annotated[bool, option("--allow-partial", _NETWORKS, LOAD_MATCHING)] = False
    min_teacher_miou: Annotated[
        float | None,
        option(
            "--min-teacher-miou",
            _NETWORKS,
            "Stop if the teacher's validation mIoU is below this value.",
            default="half of the mIoU that its source reports",
            metavar="PERCENT",
        ),
    ] = None

    max_iters: Annotated[
        int | None,
        option("--max-iters", _SCHEDULE, "Train every role for N iterations.", default=_PRESETS, min=1),
    ] = None
    time_budget: Annotated[
        str | None,
        option(
            "--time-budget",
            _SCHEDULE,
            "Train students for this time of steps instead of iterations: 2h, 90m, 1h30m, 45s. The teacher keeps its "
            "iterations.",
            default=_PRESETS,
            metavar="TIME",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        option("--batch-size", _SCHEDULE, "Take N images per GPU (worker) and step.", default=_PRESETS, min=1),
    ] = None
    amp: Annotated[
        Amp | None, option("--amp", _SCHEDULE, "Use mixed precision.", default=f"{_PRESETS}, usually off")
    ] = None
    tf32: Annotated[
        bool | None,
        option(
            "--tf32/--no-tf32",
            _SCHEDULE,
            "Use TF32 on GPUs for convolutions and matrix products in float32.",
            default=f"{_PRESETS}, usually --tf32",
        ),
    ] = None
    deterministic: Annotated[
        bool, option("--deterministic", _SCHEDULE, "Use deterministic GPU kernels if torch has them.")
    ] = False
    skip_nonfinite: Annotated[
        bool, option("--skip-nonfinite", _SCHEDULE, "Skip steps whose loss or gradient is infinite or NaN.")
    ] = False

    device: DeviceOption = Device.auto
    gpus: Gpus = None
    nodes: Annotated[
        int | None,
        option(
            "--nodes",
            DEVICES,
            "Train on N machines; start the same command on each.",
            default="Slurm's, else 1",
            min=1,
            max=4096,
        ),
    ] = None
    node_rank: Annotated[
        int | None,
        option("--node-rank", DEVICES, "Set the rank of this machine, from 0.", default="Slurm's, else 0", min=0),
    ] = None
    rdzv_endpoint: Annotated[
        str | None,
        option(
            "--rdzv-endpoint",
            DEVICES,
            "Set the rendezvous of the machines, a port on machine 0.",
            default="Slurm's",
            metavar="HOST:PORT",
        ),
    ] = None
    max_restarts: Annotated[
        int | None,
        option(
            "--max-restarts",
            DEVICES,
            "Restart the workers up to N times if one of them is lost.",
            default="3, with one worker 0",
            min=0,
            max=1000,
        ),
    ] = None

    work_dir: Annotated[
        Path | None,
        option(
            "--work-dir",
            _RUN_DIRECTORY,
            "Write each role into a directory below this one.",
            default="work_dirs/<preset>",
            metavar="DIR",
        ),
    ] = None
    resume: Annotated[
        bool, option("--resume", _RUN_DIRECTORY, "Continue the run in the run directory, or show its result.")
    ] = False
    force: Annotated[
        bool, option("--force", _RUN_DIRECTORY, "Accept another number of GPUs or another batch size with --resume.")
    ] = False
    fresh: Annotated[
        bool, option("--fresh", _RUN_DIRECTORY, "Start over; the existing run directory is renamed, not deleted.")
    ] = False
    keep: Annotated[
        int | None,
        option("--keep", _RUN_DIRECTORY, "Keep the newest N checkpoints iter_*.pth.", default=_PRESETS, min=1),
    ] = None

    track: Annotated[
        str | None,
        option(
            "--track",
            _RUN_DIRECTORY,
            "Record the run with these trackers: tensorboard, wandb, mlflow, or none.",
            default="tensorboard",
            metavar="NAME,NAME",
        ),
    ] = None

    dry_run: Annotated[
        bool, option("--dry-run", OUTPUT, "Take two steps on random data, print sizes, memory and time, and stop.")
    ] = False
    print_config: Annotated[bool, option("--print-config", OUTPUT, "Print the preset with all changes, and stop.")] = (
        False
    )
