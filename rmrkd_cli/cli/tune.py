"""`rmrkd tune`"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rmrkd_cli.cli.command import option
from rmrkd_cli.cli.completion import complete_method, complete_preset
from rmrkd_cli.cli.options import NETWORK, OUTPUT, Code, DataRoot, Device, DeviceOption
from rmrkd_cli.storage.output_paths import check_recordable

if TYPE_CHECKING:
    from optuna import Study

    from rmrkd_cli.training.tuning.trial import TuningJob

_SEARCH = "Search"


def tune_command(
    preset: Annotated[
        str,
        option(
            "--preset",
            _SEARCH,
            "Tune the losses for this preset (list: rmrkd presets) or for your own YAML file.",
            metavar="NAME|FILE",
            autocompletion=complete_preset,
        ),
    ],
    method: Annotated[
        str | None,
        option(
            "--method",
            _SEARCH,
            "Tune the losses of this method (list: rmrkd methods).",
            default="the preset's",
            metavar="NAME",
            autocompletion=complete_method,
        ),
    ] = None,
    trials: Annotated[
        int,
        option("--trials", _SEARCH, "Train N short runs, the preset's own settings first.", min=2, max=10_000),
    ] = 20,
    max_iters: Annotated[
        int | None,
        option("--max-iters", _SEARCH, "Train each trial for N iterations.", default="a tenth of the preset's", min=1),
    ] = None,
    seed: Annotated[
        int, option("--seed", _SEARCH, "Set the seed of the search; that of training is the preset's.", min=0)
    ] = 0,
    settings: Annotated[
        list[str] | None,
        option(
            "--set",
            _SEARCH,
            "Change any key of the preset for all trials; repeatable.",
            metavar="KEY.PATH=VALUE",
        ),
    ] = None,
    data_root: DataRoot = None,
    teacher_checkpoint: Annotated[
        str | None,
        option(
            "--teacher-checkpoint",
            NETWORK,
            "Load the teacher from this file.",
            default="the preset's; without one it is trained first",
            metavar="FILE",
        ),
    ] = None,
    code: Code = None,
    device: DeviceOption = Device.auto,
    work_dir: Annotated[
        Path | None,
        option(
            "--work-dir",
            OUTPUT,
            "Write the search and its trials into this directory.",
            default="work_dirs/<preset>/tune-<method>",
            metavar="DIR",
        ),
    ] = None,
    resume: Annotated[bool, option("--resume", OUTPUT, "Continue the search in the directory.")] = False,
    dry_run: Annotated[bool, option("--dry-run", OUTPUT, "Print what is searched and its cost, and stop.")] = False,
) -> None:
    """Search the weights and options of a method's losses on short runs, and write the best as a recipe.

    Trials that fall behind are stopped at a validation. The mIoU is that of the validation split. The test split is
    refused: measure the tuned method there, once.

    Examples:
        rmrkd tune --preset demo --method kd --trials 10 --dry-run
        rmrkd tune --preset psp101-psp18-city --method cwd --trials 20 --max-iters 4000
    """
    from rmrkd_cli.installation.mmseg import require_mmseg
    from rmrkd_cli.presets.user_code import allow_files
    from rmrkd_cli.terminal import console, messages
    from rmrkd_cli.training.tuning.space import check_validation_split
    from rmrkd_cli.training.tuning.study import open_study, require_optuna, search
    from rmrkd_cli.training.tuning.trial import TuningJob, train_teacher

    check_recordable(work_dir, "--work-dir")
    require_optuna()
    changes = _changes(preset, settings or [], data_root, teacher_checkpoint)
    allow_files(tuple(code or ()))
    job = TuningJob(
        preset, work_dir or Path(), method, tuple(changes), max_iters, seed, device.value, tuple(code or ())
    )
    loaded = job.load()
    if work_dir is None:
        from dataclasses import replace

        job = replace(job, work_dir=Path("work_dirs") / loaded.name / f"tune-{loaded.method}")
    check_validation_split(loaded)
    require_mmseg()
    if dry_run:
        _print_cost(job, trials, 0, console.print_line)
        return
    study = open_study(job, resume=resume)
    _print_cost(job, trials, len(study.get_trials(deepcopy=False)), messages.log)
    train_teacher(job)
    search(job, study, trials)
    _print_result(job, study)


def _changes(preset: str, settings: list[str], data_root: str | None, teacher: str | None) -> list[str]:
    """Return the texts of `--set` for the options, those of the user last."""
    import json

    from rmrkd_cli.presets.changes import checkpoint_override

    changes = [f"data.root={json.dumps(data_root)}"] if data_root is not None else []
    if teacher is not None:
        key, value, _ = checkpoint_override("teacher", preset, teacher)
        changes += [f"{key}={value}", "teacher.reported_miou=null"]
    return [*changes, *settings]


def _print_cost(job: TuningJob, trials: int, done: int, show: object) -> None:
    from rmrkd_cli.training.tuning.cost import describe_cost

    for line in describe_cost(job, trials, done):
        show(line)  # type: ignore[operator]


def _print_result(job: TuningJob, study: Study) -> None:
    """Print all trials, the best settings, and how to train with them."""
    from rmrkd_cli.terminal import console
    from rmrkd_cli.training.tuning.study import best_settings, rows, write_best

    best = job.work_dir / "best.yaml"
    write_best(job, study, best)
    settings = shlex.join(word for text in best_settings(study) for word in ("--set", text))
    method = f" --method {job.method}" if job.method is not None else ""
    notes = [
        "mIoU on the validation images, which the settings were chosen on: report the result on other images",
        f"best: {settings}",
        f"train with it: rmrkd train --preset {job.preset}{method} {settings}",
        f"or:            rmrkd train --preset {job.preset} --recipe {best}",
    ]
    console.print_table("Trials", ["trial", "mIoU", "state", "settings"], rows(study), notes)
