"""`rmrkd train`"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.commands import train_options as given
from rmrkd_cli.commands.options import DataRoot, Device, DeviceOption, Gpus, check_recordable
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.mmseg import require_mmseg

if TYPE_CHECKING:
    from rmrkd_cli.engine.cluster import Cluster
    from rmrkd_cli.engine.job import TrainJob
    from rmrkd_cli.engine.plan import Run
    from rmrkd_cli.report import Record
    from rmrkd_cli.schema import Preset


def train_command(
    preset: given.PresetOption, role: given.Role = None, method: given.Method = None, code: given.Code = None,
    data_root: DataRoot = None, work_dir: given.WorkDir = None, gpus: Gpus = None, device: DeviceOption = Device.auto,
    nodes: given.Nodes = None, node_rank: given.NodeRank = None, rdzv_endpoint: given.Endpoint = None,
    max_restarts: given.MaxRestarts = None,
    teacher_checkpoint: given.TeacherCheckpoint = None, student_checkpoint: given.StudentCheckpoint = None,
    allow_partial: given.PartialWeights = False, min_teacher_miou: given.MinTeacherMiou = None,
    max_iters: given.MaxIters = None, time_budget: given.TimeBudget = None, batch_size: given.BatchSize = None,
    workers: given.Workers = None, cache: given.CacheOption = None, seed: given.Seed = None,
    seeds: given.Seeds = None, amp: given.AmpOption = None, deterministic: given.Deterministic = False,
    skip_nonfinite: given.SkipNonfinite = False, skip_corrupt: given.SkipCorrupt = False,
    resume: given.Resume = False, force: given.Force = False, fresh: given.Fresh = False, keep: given.Keep = None,
    settings: given.Settings = None, dry_run: given.DryRun = False, print_config: given.PrintConfig = False,
) -> None:  # fmt: skip
    """Train a teacher, a baseline, a distilled student, or all of them and compare."""
    from rmrkd_cli import console
    from rmrkd_cli.presets import load_preset, to_yaml

    if resume and fresh:
        raise RmrkdError("--resume and --fresh exclude each other")
    if force and not resume:
        raise RmrkdError("--force is only about resuming", "--resume --force; or --fresh to start again")
    if seed is not None and seeds is not None:
        raise RmrkdError("--seed and --seeds exclude each other", f"--seeds {seed}, or --seed {seed}")
    check_recordable(work_dir, "--work-dir")
    several = given.seeds_of(seeds)
    values = {
        "role": role, "data.root": data_root, "data.cache": cache, "schedule.batch_size": batch_size,
        "schedule.workers": workers, "seed": several[0] if several is not None else seed, "schedule.amp": amp,
        "deterministic": deterministic or None, "schedule.keep": keep,
        "schedule.skip_nonfinite": skip_nonfinite or None, "schedule.skip_corrupt": skip_corrupt or None,
        "schedule.time_budget": time_budget, "teacher.min_miou": min_teacher_miou,
    }  # fmt: skip
    options = given.overrides_of(values, max_iters=max_iters, teacher=teacher_checkpoint, student=student_checkpoint)
    overrides = [*given.other_teacher(preset, teacher_checkpoint), *(settings or []), *options]
    resolved = load_preset(preset, method=method, overrides=overrides)
    given.check_budget(resolved, time_budget, max_iters)
    if allow_partial:
        given.let_partial(resolved)
    if print_config:
        console.write(to_yaml(resolved))
        return
    require_mmseg()
    from rmrkd_cli.engine.cluster import cluster_of, slurm_step
    from rmrkd_cli.engine.distributed import choose_device
    from rmrkd_cli.engine.own_code import check_named

    named = given.code_of(method, code)
    if resolved.role in ("distill", "all"):
        check_named(resolved, named)
    slurm = None if dry_run else slurm_step()
    if slurm is not None and gpus is None and device is not Device.cpu:
        gpus = slurm.gpus
    kind, count = choose_device(device.value, None if dry_run else gpus)
    if dry_run:
        from rmrkd_cli.engine.dry_run import dry_run as rehearse
        from rmrkd_cli.engine.plan import plan_of

        for line in rehearse(plan_of(resolved, work_dir, several)[0], kind, named):
            console.write_line(line)
        return
    cluster = cluster_of(
        workers=count, nodes=nodes, node_rank=node_rank, rdzv_endpoint=rdzv_endpoint, max_restarts=max_restarts,
        slurm=slurm,
    )  # fmt: skip
    records = train(
        resolved, work_dir, kind, cluster, seeds=several, code=named, resume=resume, fresh=fresh, force=force
    )
    _show(records, resolved)


def train(
    preset: Preset,
    work_dir: Path | None,
    device: str,
    cluster: Cluster,
    *,
    seeds: Sequence[int] | None = None,
    code: tuple[str, ...] = (),
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
) -> list[Record]:
    """Trains the preset's roles one after the other, for each seed; returns their result records.

    Args:
        seeds: None for the preset's own, without a directory for it.
        code: Files that the command line names, whose losses may run.

    Raises:
        RmrkdError: Before anything is trained, when any of the directories holds another run, or is in use.
    """
    from rmrkd_cli import console
    from rmrkd_cli.engine.launch import execute
    from rmrkd_cli.engine.plan import plan_of
    from rmrkd_cli.report import read_record

    plans = plan_of(preset, work_dir, seeds)
    runs = [run for plan in plans for run in plan]
    left = _left(plans, cluster, code=code, resume=resume, fresh=fresh, force=force)
    with _checked(preset, left, device, cluster) or nullcontext() as kept, ExitStack() as held:
        if cluster.is_first:
            for run in left:
                held.enter_context(run.files.held())
                run.files.claim(run.preset, fresh=fresh)
        if kept is not None:
            console.say(f"decoded training images: {kept.size / 1e9:.2f} GB in {kept.place}")
        for run in _to_measure(left):
            execute(_job(run, device, only_measure=True, code=code), cluster)
        for run in runs:
            if run not in left:
                console.say(f"{_name(run, seeds)} is finished already: {run.files.path}")
                continue
            if seeds is not None:
                console.say(f"seed {run.preset.seed}, {seeds.index(run.preset.seed) + 1} of {len(seeds)}: {run.role}")
            execute(_job(run, device, decoded=kept.path if kept is not None else None, code=code, force=force), cluster)
    return [read_record(run.files.result) for run in runs] if cluster.is_first else []


def _left(
    plans: list[list[Run]], cluster: Cluster, *, code: Sequence[str], resume: bool, fresh: bool, force: bool
) -> list[Run]:
    """The runs that are still to be trained.

    Raises:
        RmrkdError: When any of them cannot be.
    """
    from rmrkd_cli.checkpoint import read_checkpoint
    from rmrkd_cli.engine.own_code import check_same_code, hashes
    from rmrkd_cli.engine.plan import check_comparable

    if cluster.is_first:
        for run in (run for plan in plans for run in plan):
            run.files.check(run.preset, resume=resume, fresh=fresh, force=force)
            if resume and not run.files.finished:
                run.files.checkpoints.probe()
            if resume and run.files.finished and run.role == "distill":
                written = read_checkpoint(run.files.student, lazy=True)
                check_same_code(written.meta, hashes(run.preset, code), run.files.path)
    left = [[run for run in plan if not (resume and run.files.finished)] for plan in plans]
    if cluster.is_first:
        for plan, unfinished in zip(plans, left, strict=True):
            check_comparable(plan, unfinished, cluster, force=force)
    return [run for unfinished in left for run in unfinished]


def _checked(preset: Preset, left: list[Run], device: str, cluster: Cluster) -> Any:
    """Images and weights, once for all runs; room for decoded images, where they are wanted.

    Raises:
        RmrkdError: On the first thing that is missing or cannot work.
    """
    from rmrkd_cli.engine import preflight

    taught = [run.preset for run in left if run.role == "distill" and not run.taught_here]
    for other in taught[1:]:
        if other.teacher != taught[0].teacher:
            preflight.check_teacher(other)
    roles = list(dict.fromkeys(run.role for run in left))
    return preflight.check(taught[0] if taught else preset, roles, device=device, workers=cluster.size)


def _to_measure(left: list[Run]) -> list[Run]:
    """A run for each teacher that is there already, and would not be measured before the first step of all."""
    teachers = [left[0].preset.teacher] if left and left[0].role == "distill" else []
    chosen = []
    for run in left:
        if run.role == "distill" and not run.taught_here and run.preset.teacher not in teachers:
            teachers.append(run.preset.teacher)
            chosen.append(run)  # before the others, which may take days
    return chosen


def _name(run: Run, seeds: Sequence[int] | None) -> str:
    return run.role if seeds is None else f"seed {run.preset.seed}: {run.role}"


def _job(run: Run, device: str, **how: Any) -> TrainJob:
    from rmrkd_cli.engine.job import TrainJob

    return TrainJob(
        preset=run.preset.model_dump(mode="json"), role=run.role, run_dir=str(run.files.path), device=device, **how
    )


def _show(records: list[Record], preset: Preset) -> None:
    """The results of all seeds together; nothing on machines that hold none."""
    if not records:
        return
    import shlex

    from rmrkd_cli import console, report

    try:
        report.check_same_protocol(records)
    except RmrkdError as error:  # the images changed between a run and its resumption
        students = [str(record["checkpoint"]) for record in records]
        console.say(f"{error.message}\nmeasure them anew: {shlex.join(['rmrkd', 'eval', *students])}")
    else:
        _show_compared(records, preset)
    for record in records:
        console.say(f"{record['role']}: {record['checkpoint']}")


def _show_compared(records: list[Record], preset: Preset) -> None:
    from rmrkd_cli import console, report
    from rmrkd_cli.comparison import compare
    from rmrkd_cli.schema import OWN_METHOD

    compared = compare(records)
    columns, rows = report.summary_table(compared.groups)
    notes = [report.protocol_line(compared.protocol), *report.verdict_lines(compared)]
    if preset.paper is not None and preset.method == OWN_METHOD:
        notes.append(f"paper: baseline {preset.paper.baseline:.2f}, distilled {preset.paper.distilled:.2f}")
    if len(compared.groups) > 1:
        console.show_table("IoU of each class, %", *report.class_table(compared), bold_last=True)
    console.show_table(preset.title or preset.name, columns, rows, notes)
