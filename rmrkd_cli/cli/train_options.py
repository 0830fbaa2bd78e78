"""The options of `rmrkd train`, and what they change in a preset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.cli.usage_errors import cut
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.durations import duration

if TYPE_CHECKING:
    from rmrkd_cli.presets.schema import Preset

_MOST_SEEDS = 100
_MACHINES, _WEIGHTS, _SCHEDULE, _RUNS = "Several machines", "Weights", "Schedule", "Runs"


class Amp(str, Enum):
    off = "off"
    bf16 = "bf16"
    fp16 = "fp16"


class Cache(str, Enum):
    off = "off"
    ram = "ram"
    disk = "disk"


def _option(*names: str, panel: str, help: str, **how: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **how)


PresetOption = Annotated[
    str, typer.Option("--preset", metavar="NAME|FILE", help="A preset, or a YAML file of your own.")
]
Role = Annotated[
    str | None,
    typer.Option(metavar="ROLE", help="teacher, baseline, distill, or all. (default: the preset's, mostly distill)"),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE:CLASS",
        help="Losses of another method in place of the preset's (see rmrkd methods), or a class of your own.",
    ),
]
Code = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="A Python file whose losses the preset names: it runs only where named here."),
]
WorkDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where runs are written. (default: work_dirs/<preset>)")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change any key of the preset.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Build, take two steps on random data, print sizes, stop; for one seed.")
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved preset and stop; of --seeds, for the first.")
]

Nodes = Annotated[int | None, _option(panel=_MACHINES, min=1, max=4096, help="Machines. (default: Slurm's, or 1)")]
NodeRank = Annotated[
    int | None, _option(panel=_MACHINES, min=0, help="This machine's number, from 0. (default: Slurm's, or 0)")
]
Endpoint = Annotated[
    str | None,
    _option(panel=_MACHINES, metavar="HOST:PORT", help="Where machines meet, on the first. (default: Slurm's)"),
]
MaxRestarts = Annotated[
    int | None,
    _option(
        panel=_MACHINES,
        min=0,
        max=1000,
        metavar="N",
        help="How often lost workers are started again. (default: 3, with one worker 0)",
    ),
]

TeacherCheckpoint = Annotated[
    str | None,
    _option(
        panel=_WEIGHTS,
        metavar="FILE|none",
        help="The teacher's weights, the same for all seeds; none where the preset shall train its own from random "
        "weights.",
    ),
]
StudentCheckpoint = Annotated[
    str | None,
    _option(
        panel=_WEIGHTS,
        metavar="FILE|none",
        help="Where the student starts: a network, a backbone, or none for random weights.",
    ),
]
PartialWeights = Annotated[
    bool, _option("--allow-partial", panel=_WEIGHTS, help="Load what fits of weights that do not cover a network.")
]
MinTeacherMiou = Annotated[
    float | None,
    _option(
        panel=_WEIGHTS,
        metavar="PERCENT",
        help="A teacher below does not teach. (default: half of what its source reports)",
    ),
]

MaxIters = Annotated[int | None, _option(panel=_SCHEDULE, min=1, help="Iterations of every role.")]
TimeBudget = Annotated[
    str | None,
    _option(
        panel=_SCHEDULE,
        metavar="TIME",
        help="Train students for so long in place of iterations: 2h, 90m, 1h30m, 45s. Steps alone count; a teacher "
        "keeps its schedule.",
    ),
]
BatchSize = Annotated[int | None, _option(panel=_SCHEDULE, min=1, help="Images a worker a step.")]
Workers = Annotated[int | None, _option(panel=_SCHEDULE, min=0, help="Loader processes a worker.")]
CacheOption = Annotated[Cache | None, _option(panel=_SCHEDULE, help="Keep decoded training images. (default: off)")]
Seed = Annotated[int | None, _option(panel=_SCHEDULE, min=0, help="Seed of everything.")]
Seeds = Annotated[
    str | None,
    _option(
        panel=_SCHEDULE,
        metavar="N,N",
        help="Train all roles for each of these seeds, a teacher without a checkpoint too, into <work dir>/seed-N.",
    ),
]
AmpOption = Annotated[Amp | None, _option(panel=_SCHEDULE, help="Mixed precision.")]
Deterministic = Annotated[
    bool, _option("--deterministic", panel=_SCHEDULE, help="Deterministic GPU kernels where torch has them.")
]
SkipNonfinite = Annotated[
    bool, _option("--skip-nonfinite", panel=_SCHEDULE, help="Leave out steps with infinite or NaN numbers.")
]
SkipCorrupt = Annotated[
    bool,
    _option(
        "--skip-corrupt",
        panel=_SCHEDULE,
        help="Put the next image in the place of a training image that cannot be read.",
    ),
]

Resume = Annotated[bool, _option("--resume", panel=_RUNS, help="Go on with the run in the work directory.")]
Force = Annotated[
    bool, _option("--force", panel=_RUNS, help="Resume also with another number of workers or batch size.")
]
Fresh = Annotated[bool, _option("--fresh", panel=_RUNS, help="Move a run that is in the way aside, and start.")]
Keep = Annotated[int | None, _option(panel=_RUNS, min=1, metavar="N", help="Newest checkpoints to keep.")]


def seeds_of(text: str | None) -> list[int] | None:
    """The seeds that are named, in their order.

    Raises:
        RmrkdError: Unless they are 1 to 100 different whole numbers from 0.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    wrong = next((part for part in parts if not (part.isascii() and part.isdigit() and len(part) <= 10)), None)
    hint = "--seeds 0,1,2"
    if wrong is not None:
        raise RmrkdError(f"`--seeds {cut(text)}`: `{cut(wrong)}` is no whole number from 0", hint)
    seeds = [int(part) for part in parts]
    if len(seeds) > _MOST_SEEDS:
        raise RmrkdError(f"`--seeds` names {len(seeds)} seeds, at most {_MOST_SEEDS} are possible", hint)
    if max(seeds) >= 2**31:
        raise RmrkdError(f"`--seeds`: {max(seeds)} is too large, at most {2**31 - 1} is possible", hint)
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise RmrkdError(f"`--seeds {cut(text)}` names {twice} more than once", hint)
    return seeds


def overrides_of(
    values: dict[str, Any], *, max_iters: int | None, teacher: str | None, student: str | None
) -> Iterator[str]:
    """`KEY.PATH=VALUE` for each option that was given.

    Args:
        values: Options that set one key, as key → value.
        teacher, student: A checkpoint's file, or `none`.
    """
    for key, value in values.items():
        if value is not None:
            yield f"{key}={json.dumps(value.value if isinstance(value, Enum) else value)}"
    if max_iters is not None:
        yield f"schedule.iters={max_iters}"
        yield f"teacher.schedule.iters={max_iters}"
    for what, file in (("teacher", teacher), ("student", student)):
        if file == "none":
            yield f"{what}.init=scratch"
            yield f"{what}.checkpoint=null"
        elif file is not None:
            yield f"{what}.checkpoint={{path: {json.dumps(file)}}}"


def other_teacher(preset: str, file: str | None) -> list[str]:
    """What the preset's source reports of its teacher is not said of another file."""
    from rmrkd_cli.presets.loader import load_preset
    from rmrkd_cli.storage.cache import sha256_of

    if file is None or file == "none":
        return []
    own = load_preset(preset).teacher.checkpoint
    if own is not None and own.sha256 and Path(file).is_file() and sha256_of(Path(file)).startswith(own.sha256):
        return []
    return ["teacher.reported_miou=null"]


def code_of(method: str | None, files: list[str] | None) -> tuple[str, ...]:
    """The Python files that the command line names."""
    from rmrkd_cli.presets.loss_schema import code_file, is_code

    own = [code_file(method)] if method is not None and is_code(method) else []
    return (*own, *(files or []))


def let_partial(preset: Preset) -> None:
    """Lets the given checkpoints cover only a part of their networks."""
    given = [network.checkpoint for network in (preset.teacher, preset.student) if network.checkpoint is not None]
    if not given:
        raise RmrkdError("--allow-partial is about checkpoints, and none is given", "--student-checkpoint FILE")
    for source in given:
        source.allow_partial = True


def check_budget(preset: Preset, given: str | None, max_iters: int | None) -> None:
    """Raises RmrkdError for a time budget that no role of the preset has, or beside a number of iterations."""
    if given is not None and max_iters is not None:
        raise RmrkdError(
            "--time-budget and --max-iters exclude each other",
            f"a teacher's iterations: --time-budget {cut(given)} --set teacher.schedule.iters={max_iters}",
        )
    budget = preset.schedule.time_budget
    if max_iters is not None and budget is not None and preset.role != "teacher":
        raise RmrkdError(
            f"--max-iters ends no student of this preset: its time budget of {duration(budget)} does",
            "--set schedule.time_budget=null",
        )
    if given is not None and preset.role == "teacher":
        raise RmrkdError(
            "--time-budget is the students', and only the teacher would be trained",
            f"--set teacher.schedule.time_budget={cut(given)}",
        )
