"""`rmrkd train`"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmrkd_cli.cli import train_options as given
from rmrkd_cli.cli.options import DataRoot, Device, DeviceOption, Gpus, check_recordable
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.mmseg import require_mmseg

if TYPE_CHECKING:
    from rmrkd_cli.presets.schema import Preset
    from rmrkd_cli.results.record import Record


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
    from rmrkd_cli.presets.loader import load_preset, to_yaml
    from rmrkd_cli.terminal import console

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
    from rmrkd_cli.distillation.custom_loss import check_named
    from rmrkd_cli.distributed.cluster import resolve_cluster
    from rmrkd_cli.distributed.device import choose_device
    from rmrkd_cli.distributed.slurm import read_slurm_step

    named = given.code_of(method, code)
    if resolved.role in ("distill", "all"):
        check_named(resolved, named)
    slurm = None if dry_run else read_slurm_step()
    if slurm is not None and gpus is None and device is not Device.cpu:
        gpus = slurm.gpus
    kind, count = choose_device(device.value, None if dry_run else gpus)
    if dry_run:
        from rmrkd_cli.training.dry_run import report_dry_run
        from rmrkd_cli.training.plan import plan_runs

        for line in report_dry_run(plan_runs(resolved, work_dir, several)[0], kind, named):
            console.write_line(line)
        return
    cluster = resolve_cluster(
        workers=count, nodes=nodes, node_rank=node_rank, rdzv_endpoint=rdzv_endpoint, max_restarts=max_restarts,
        slurm=slurm,
    )  # fmt: skip
    from rmrkd_cli.training.run import train

    records = train(
        resolved, work_dir, kind, cluster, seeds=several, code=named, resume=resume, fresh=fresh, force=force
    )
    _show(records, resolved)


def _show(records: list[Record], preset: Preset) -> None:
    """The results of all seeds together; nothing on machines that hold none."""
    if not records:
        return
    import shlex

    from rmrkd_cli.comparison.protocol import check_same_protocol
    from rmrkd_cli.terminal import console

    try:
        check_same_protocol(records)
    except RmrkdError as error:  # the images changed between a run and its resumption
        students = [str(record["checkpoint"]) for record in records]
        console.say(f"{error.message}\nmeasure them anew: {shlex.join(['rmrkd', 'eval', *students])}")
    else:
        _show_compared(records, preset)
    for record in records:
        console.say(f"{record['role']}: {record['checkpoint']}")


def _show_compared(records: list[Record], preset: Preset) -> None:
    from rmrkd_cli.comparison.compare import compare
    from rmrkd_cli.presets.schema import OWN_METHOD
    from rmrkd_cli.report import tables
    from rmrkd_cli.results.protocol import protocol_line
    from rmrkd_cli.terminal import console

    compared = compare(records)
    columns, rows = tables.summary_table(compared.groups)
    notes = [protocol_line(compared.protocol), *tables.summary_lines(compared)]
    if preset.paper is not None and preset.method == OWN_METHOD:
        notes.append(f"paper: baseline {preset.paper.baseline:.2f}, distilled {preset.paper.distilled:.2f}")
    if len(compared.groups) > 1:
        console.show_table("IoU of each class, %", *tables.class_table(compared), bold_last=True)
    console.show_table(preset.title or preset.name, columns, rows, notes)
