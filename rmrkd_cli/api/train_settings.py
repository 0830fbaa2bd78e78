"""What `train` changes of its preset, and how."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.changes import checkpoint_override, combine_settings, set_keys
from rmrkd_cli.storage.output_paths import absolute_path, check_recordable
from rmrkd_cli.terminal.durations import format_duration
from rmrkd_cli.terminal.text import shorten_value
from rmrkd_cli.training.trackers.names import parse_trackers

if TYPE_CHECKING:
    from rmrkd_cli.presets.schema import Preset

_MAX_SEEDS, MAX_SEED = 100, 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The arguments of `rmrkd_cli.train`, and the options of `rmrkd train`, which have the same names."""

    preset: str
    role: str | None = None
    method: str | None = None
    recipe: str | None = None
    code: Sequence[str] = ()
    settings: Sequence[str] = ()
    seed: int | None = None
    seeds: Sequence[int] | None = None
    data_root: str | None = None
    unlabelled: str | None = None
    workers: int | None = None
    cache: str | None = None
    skip_corrupt: bool = False
    teacher_checkpoint: str | None = None
    teacher_outputs: str | None = None
    student_checkpoint: str | None = None
    allow_partial: bool = False
    min_teacher_miou: float | None = None
    max_iters: int | None = None
    time_budget: str | None = None
    batch_size: int | None = None
    amp: str | None = None
    tf32: bool | None = None
    deterministic: bool = False
    skip_nonfinite: bool = False
    device: str = "auto"
    gpus: int | None = None
    nodes: int | None = None
    node_rank: int | None = None
    rdzv_endpoint: str | None = None
    max_restarts: int | None = None
    work_dir: Path | None = None
    resume: bool = False
    force: bool = False
    fresh: bool = False
    keep: int | None = None
    track: str | Sequence[str] | None = None


def check_options(options: TrainSettings) -> None:
    """Raise RmrkdError for options that exclude each other."""
    if options.resume and options.fresh:
        raise RmrkdError("--resume and --fresh exclude each other", "--resume continues, --fresh starts over")
    if options.force and not options.resume:
        raise RmrkdError("--force needs --resume", "--resume --force, or --fresh to start over")
    if options.seed is not None and options.seeds is not None:
        raise RmrkdError("--seed and --seeds exclude each other", f"--seeds {options.seed}, or --seed {options.seed}")
    check_seeds(options.seeds)
    if options.time_budget is not None and options.max_iters is not None:
        raise RmrkdError(
            "--time-budget and --max-iters exclude each other",
            f"for the teacher's iterations: --time-budget {shorten_value(options.time_budget)} "
            f"--set teacher.schedule.iters={options.max_iters}",
        )
    if options.recipe is not None and options.method is not None:
        raise RmrkdError(
            "--recipe and --method exclude each other", f"rmrkd recipes {options.recipe} shows what a recipe changes"
        )
    check_recordable(options.work_dir, "--work-dir")
    parse_trackers(options.track)


def load_changed_preset(options: TrainSettings) -> Preset:
    """Return the preset with the method and the changes of the command line.

    Raises:
        RmrkdError: For an invalid preset, value, or combination of options.
    """
    from rmrkd_cli.presets.loader import load_preset

    overrides = [*_forget_reported_miou(options), *combine_settings(list(options.settings), list(_overrides(options)))]
    preset = load_preset(options.preset, method=options.method, recipe=options.recipe, overrides=overrides)
    _check_budget(preset, options)
    _check_role(preset, options)
    if options.allow_partial:
        _allow_partial_checkpoints(preset)
    return preset


def code_files(options: TrainSettings) -> tuple[str, ...]:
    """Return the Python files that `--method` and `--code` name."""
    from rmrkd_cli.presets.loss_schema import custom_loss_file, is_custom_loss

    own = [custom_loss_file(options.method)] if options.method is not None and is_custom_loss(options.method) else []
    return (*own, *options.code)


def chosen_lengths(preset: Preset, options: TrainSettings) -> set[str]:
    """Return the roles whose length the command line gives, by an option or by `--set`."""
    from rmrkd_cli.training.extension import LENGTH_KEYS

    given = {key for key, *_ in _changes(options)} | set_keys(list(options.settings))
    common, own = given.intersection(LENGTH_KEYS[:2]), given.intersection(LENGTH_KEYS[2:])
    follows = "schedule.iters" in common and getattr(preset.teacher.schedule, "iters", None) is None
    return ({"baseline", "distill"} if common else set()) | ({"teacher"} if own or follows else set())


def setting_texts(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return changes of a preset as `KEY.PATH=VALUE`, from a mapping of keys to values or from such texts."""
    if isinstance(settings, str):
        return [settings]
    if not isinstance(settings, Mapping):
        return list(settings)
    return [f"{key}={json.dumps(_plain(value))}" for key, value in settings.items()]


def _plain(value: Any) -> Any:
    """Return a value of `settings` as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def check_seeds(seeds: Sequence[int] | None) -> None:
    """Raise RmrkdError unless they are 1 to 100 different integers from 0 to 2**31 - 1, or None."""
    if seeds is None:
        return
    hint = "--seeds 0,1,2"
    if not 1 <= len(seeds) <= _MAX_SEEDS:
        raise RmrkdError(f"`--seeds` names {len(seeds)} seeds, at least 1 and at most {_MAX_SEEDS} are allowed", hint)
    if min(seeds) < 0:
        raise RmrkdError(f"`--seeds`: {min(seeds)} is negative", hint)
    if max(seeds) > MAX_SEED:
        raise RmrkdError(f"`--seeds`: {max(seeds)} is too large, at most {MAX_SEED} is allowed", hint)
    twice = next((seed for seed in seeds if list(seeds).count(seed) > 1), None)
    if twice is not None:
        raise RmrkdError(f"`--seeds` names {twice} more than once", hint)


def _overrides(options: TrainSettings) -> Iterator[tuple[str, str, str]]:
    """Yield key, value as JSON, and option, for each option that changes a key of the preset."""
    for key, option, value in _changes(options):
        yield key, json.dumps(value), option
    for network, file in (("teacher", options.teacher_checkpoint), ("student", options.student_checkpoint)):
        option = f"--{network}-checkpoint"
        if file == "none":
            yield f"{network}.init", '"scratch"', option
            yield f"{network}.checkpoint", "null", option
        elif file is not None:
            yield checkpoint_override(network, options.preset, file)


def _changes(options: TrainSettings) -> Iterator[tuple[str, str, object]]:
    """Yield key, option and value of the options with a key of their own, checkpoints apart."""
    seeds = options.seeds
    table = (
        ("role", "role", options.role),
        ("data.root", "data-root", options.data_root),
        ("data.unlabelled.images", "unlabelled", absolute_path(options.unlabelled)),
        ("data.cache", "cache", options.cache),
        ("schedule.batch_size", "batch-size", options.batch_size),
        ("schedule.workers", "workers", options.workers),
        ("schedule.amp", "amp", options.amp),
        ("schedule.tf32", "tf32", options.tf32),
        ("schedule.keep", "keep", options.keep),
        ("schedule.skip_nonfinite", "skip-nonfinite", options.skip_nonfinite or None),
        ("schedule.skip_corrupt", "skip-corrupt", options.skip_corrupt or None),
        ("schedule.time_budget", "time-budget", options.time_budget),
        ("schedule.iters", "max-iters", options.max_iters),
        ("teacher.schedule.iters", "max-iters", options.max_iters),
        ("teacher.outputs", "teacher-outputs", options.teacher_outputs),
        ("teacher.min_miou", "min-teacher-miou", options.min_teacher_miou),
        ("seed", "seed" if seeds is None else "seeds", options.seed if seeds is None else seeds[0]),
        ("deterministic", "deterministic", options.deterministic or None),
    )
    for key, option, value in table:
        if value is not None:
            yield key, f"--{option}", value


def _forget_reported_miou(options: TrainSettings) -> list[str]:
    """Return the change that removes the preset's reported mIoU if `--teacher-checkpoint` is another file."""
    from rmrkd_cli.presets.loader import load_preset
    from rmrkd_cli.storage.cache import sha256_of

    if options.teacher_checkpoint is None or options.teacher_checkpoint == "none":
        return []
    own, file = load_preset(options.preset).teacher.checkpoint, Path(options.teacher_checkpoint)
    if own is not None and own.sha256 and file.is_file() and sha256_of(file).startswith(own.sha256):
        return []
    return ["teacher.reported_miou=null"]


def _check_budget(preset: Preset, options: TrainSettings) -> None:
    """Raise RmrkdError if `--max-iters` or `--time-budget` has no effect on the roles of the preset."""
    budget = preset.schedule.time_budget
    if options.max_iters is not None and budget is not None and preset.role != "teacher":
        raise RmrkdError(
            f"--max-iters has no effect on the students: the preset has a time budget of {format_duration(budget)}",
            "--set schedule.time_budget=null",
        )
    if options.time_budget is not None and preset.role == "teacher":
        raise RmrkdError(
            "--time-budget is for students, but only the teacher is trained",
            f"--set teacher.schedule.time_budget={shorten_value(options.time_budget)}",
        )


_UNUSED = {  # role -> options that it does not use
    "teacher": ("student_checkpoint", "method", "min_teacher_miou", "teacher_outputs"),
    "baseline": ("teacher_checkpoint", "method", "min_teacher_miou", "teacher_outputs"),
}


def _check_role(preset: Preset, options: TrainSettings) -> None:
    """Reject a checkpoint for a teacher that is trained anew; say which options the role does not use.

    Raises:
        RmrkdError: For `--role teacher --teacher-checkpoint FILE`.
    """
    from rmrkd_cli.terminal.messages import log

    if preset.role == "teacher" and options.teacher_checkpoint not in (None, "none"):
        raise RmrkdError(
            "--role teacher trains the teacher from ImageNet or random weights, and does not use --teacher-checkpoint",
            "leave it out; to distil from that teacher, --role distill",
        )
    if preset.role == "teacher" and preset.teacher.checkpoint is not None:
        log("--role teacher trains the teacher anew: the preset's `teacher.checkpoint` is not used")
    unused = [name for name in _UNUSED.get(preset.role, ()) if getattr(options, name) is not None]
    if unused:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        log(f"--role {preset.role} does not use {names}")


def _allow_partial_checkpoints(preset: Preset) -> None:
    """Let the checkpoints of the preset, and the student's `weights`, match only a part of their networks."""
    student = preset.student
    if student.checkpoint is None and student.weights not in (None, "none"):
        from rmrkd_cli.networks.libraries import start_source

        student.checkpoint = start_source(student, "student")
    sources = [network.checkpoint for network in (preset.teacher, preset.student) if network.checkpoint is not None]
    if not sources:
        raise RmrkdError("--allow-partial needs a checkpoint", "--student-checkpoint FILE")
    for source in sources:
        source.allow_partial = True
