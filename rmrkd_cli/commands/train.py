"""`rmrkd train`"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.commands.options import DataRoot, Device, DeviceOption, Gpus, check_recordable
from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.engine.cluster import Cluster
    from rmrkd_cli.engine.job import TrainJob
    from rmrkd_cli.engine.run_dir import RunDir
    from rmrkd_cli.report import Record
    from rmrkd_cli.schema import Preset


class Amp(str, Enum):
    off = "off"
    bf16 = "bf16"
    fp16 = "fp16"


class Cache(str, Enum):
    off = "off"
    ram = "ram"
    disk = "disk"


def train_command(
    preset: Annotated[str, typer.Option("--preset", metavar="NAME|FILE", help="A preset, or a YAML file of your own.")],
    role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE", help="teacher, baseline, distill, or all. (default: the preset's, mostly distill)"
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="Losses of another method in place of the preset's.")
    ] = None,
    data_root: DataRoot = None,
    work_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where runs are written. (default: work_dirs/<preset>)")
    ] = None,
    gpus: Gpus = None,
    device: DeviceOption = Device.auto,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Machines. (default: Slurm's, or 1)", rich_help_panel="Several machines"),
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option(
            min=0, help="This machine's number, from 0. (default: Slurm's, or 0)", rich_help_panel="Several machines"
        ),
    ] = None,
    rdzv_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where machines meet, on the first. (default: Slurm's)",
            rich_help_panel="Several machines",
        ),
    ] = None,
    max_restarts: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1000,
            metavar="N",
            help="How often lost workers are started again. (default: 3, with one worker 0)",
            rich_help_panel="Several machines",
        ),
    ] = None,
    teacher_checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none",
            help="The teacher's weights; none where the preset shall train its own from random weights.",
            rich_help_panel="Weights",
        ),
    ] = None,
    student_checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none",
            help="Where the student starts: a network, a backbone, or none for random weights.",
            rich_help_panel="Weights",
        ),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="Load what fits of weights that do not cover a network.", rich_help_panel="Weights"
        ),
    ] = False,
    min_teacher_miou: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="A teacher below does not teach. (default: half of what its source reports)",
            rich_help_panel="Weights",
        ),
    ] = None,
    max_iters: Annotated[
        int | None, typer.Option(min=1, help="Iterations of every role.", rich_help_panel="Schedule")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a worker a step.", rich_help_panel="Schedule")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Loader processes a worker.", rich_help_panel="Schedule")
    ] = None,
    cache: Annotated[
        Cache | None, typer.Option(help="Keep decoded training images. (default: off)", rich_help_panel="Schedule")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything.", rich_help_panel="Schedule")] = None,
    amp: Annotated[Amp | None, typer.Option(help="Mixed precision.", rich_help_panel="Schedule")] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="Deterministic GPU kernels where torch has them.", rich_help_panel="Schedule"
        ),
    ] = False,
    skip_nonfinite: Annotated[
        bool,
        typer.Option(
            "--skip-nonfinite", help="Leave out steps with infinite or NaN numbers.", rich_help_panel="Schedule"
        ),
    ] = False,
    skip_corrupt: Annotated[
        bool,
        typer.Option(
            "--skip-corrupt",
            help="Put the next image in the place of a training image that cannot be read.",
            rich_help_panel="Schedule",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the work directory.", rich_help_panel="Runs")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Resume also with another number of workers or batch size.", rich_help_panel="Runs"
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move a run that is in the way aside, and start.", rich_help_panel="Runs")
    ] = False,
    keep: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Newest checkpoints to keep.", rich_help_panel="Runs")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change any key of the preset.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build, take two steps on random data, print sizes, stop.")
    ] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved preset and stop.")] = False,
) -> None:
    """Train a teacher, a baseline, a distilled student, or all of them and compare."""
    from rmrkd_cli import console
    from rmrkd_cli.presets import load_preset, to_yaml

    if resume and fresh:
        raise RmrkdError("--resume and --fresh exclude each other")
    if force and not resume:
        raise RmrkdError("--force is only about resuming", "--resume --force; or --fresh to start again")
    check_recordable(work_dir, "--work-dir")
    overrides = [*_other_teacher(preset, teacher_checkpoint), *(settings or [])]
    for key, value in (
        ("role", role), ("data.root", data_root), ("data.cache", cache.value if cache else None),
        ("schedule.batch_size", batch_size), ("schedule.workers", workers), ("seed", seed),
        ("schedule.amp", amp.value if amp else None), ("deterministic", deterministic or None),
        ("schedule.keep", keep), ("schedule.skip_nonfinite", skip_nonfinite or None),
        ("schedule.skip_corrupt", skip_corrupt or None), ("teacher.min_miou", min_teacher_miou),
    ):  # fmt: skip
        if value is not None:
            overrides.append(f"{key}={_quoted(value)}")
    if max_iters is not None:
        overrides += [f"schedule.iters={max_iters}", f"teacher.schedule.iters={max_iters}"]
    if teacher_checkpoint == "none":
        overrides += ["teacher.init=scratch", "teacher.checkpoint=null"]
    elif teacher_checkpoint is not None:
        overrides.append(f"teacher.checkpoint={{path: {_quoted(teacher_checkpoint)}}}")
    if student_checkpoint == "none":
        overrides += ["student.init=scratch", "student.checkpoint=null"]
    elif student_checkpoint is not None:
        overrides.append(f"student.checkpoint={{path: {_quoted(student_checkpoint)}}}")
    resolved = load_preset(preset, method=method, overrides=overrides)
    if allow_partial:
        _allow_partial(resolved)
    if print_config:
        console.write(to_yaml(resolved))
        return
    from rmrkd_cli.engine.cluster import cluster_of, slurm_step
    from rmrkd_cli.engine.distributed import choose_device

    slurm = None if dry_run else slurm_step()
    if slurm is not None and gpus is None and device is not Device.cpu:
        gpus = slurm.gpus
    kind, count = choose_device(device.value, None if dry_run else gpus)
    if dry_run:
        from rmrkd_cli.engine.dry_run import dry_run as rehearse
        from rmrkd_cli.engine.plan import roles_of

        for line in rehearse(resolved, roles_of(resolved), kind):
            console.write_line(line)
        return
    cluster = cluster_of(
        workers=count, nodes=nodes, node_rank=node_rank, rdzv_endpoint=rdzv_endpoint, max_restarts=max_restarts,
        slurm=slurm,
    )  # fmt: skip
    records = train(resolved, work_dir, kind, cluster, resume=resume, fresh=fresh, force=force)
    _show(records, resolved)


def train(
    preset: Preset,
    work_dir: Path | None,
    device: str,
    cluster: Cluster,
    *,
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
) -> list[Record]:
    """Trains the preset's roles one after the other; returns their result records.

    Raises:
        RmrkdError: Before anything is trained, when any of the directories holds another run, or is in use.
    """
    from rmrkd_cli import console
    from rmrkd_cli.engine import preflight
    from rmrkd_cli.engine.launch import execute
    from rmrkd_cli.engine.plan import check_comparable, plan_of
    from rmrkd_cli.report import read_record

    plan = plan_of(preset, work_dir)
    if cluster.is_first:
        for own, files in plan:
            files.check(own, resume=resume, fresh=fresh, force=force)
            if resume and not files.finished:
                files.checkpoints.probe()
    left = [(own, files) for own, files in plan if not (resume and files.finished)]
    roles: list[str] = [own.role for own, _ in left]
    if cluster.is_first and "baseline" not in roles:
        check_comparable(plan, roles, cluster, force=force)
    waiting = preset if plan[0][0].role == "teacher" else plan[-1][0]
    store = preflight.check(waiting, roles, device=device, workers=cluster.size)
    with store or nullcontext() as kept, ExitStack() as held:
        if cluster.is_first:
            for own, files in left:
                held.enter_context(files.held())
                files.claim(own, fresh=fresh)
        if kept is not None:
            console.say(f"decoded training images: {kept.size / 1e9:.2f} GB in {kept.place}")
        if roles[-1:] == ["distill"] and len(roles) > 1 and waiting.teacher.checkpoint is not None:
            # before the baseline, which may take days
            execute(_job(*plan[-1], device, only_measure=True), cluster)
        for own, files in plan:
            if own.role not in roles:
                console.say(f"{own.role} is finished already: {files.path}")
                continue
            execute(_job(own, files, device, decoded=kept.path if kept is not None else None, force=force), cluster)
    return [read_record(files.result) for _, files in plan] if cluster.is_first else []


def _job(preset: Preset, files: RunDir, device: str, **how: Any) -> TrainJob:
    from rmrkd_cli.engine.job import TrainJob

    return TrainJob(
        preset=preset.model_dump(mode="json"), role=preset.role, run_dir=str(files.path), device=device, **how
    )


def _show(records: list[Record], preset: Preset) -> None:
    if not records:
        return
    from rmrkd_cli import console, report
    from rmrkd_cli.comparison import compare
    from rmrkd_cli.schema import OWN_METHOD

    compared = compare(records)
    columns, rows = report.summary_table(compared.groups)
    notes = [report.protocol_line(compared.protocol), *report.verdict_lines(compared)]
    if preset.paper is not None and preset.method == OWN_METHOD:
        notes.append(f"paper: baseline {preset.paper.baseline:.2f}, distilled {preset.paper.distilled:.2f}")
    if len(records) > 1:
        console.show_table("IoU of each class, %", *report.class_table(compared), bold_last=True)
    console.show_table(preset.title or preset.name, columns, rows, notes)
    for record in records:
        console.say(f"{record['role']}: {record['checkpoint']}")


def _other_teacher(preset: str, file: str | None) -> list[str]:
    """What the preset's source reports of its teacher is not said of another file."""
    from rmrkd_cli.cache import sha256_of
    from rmrkd_cli.presets import load_preset

    if file is None or file == "none":
        return []
    own = load_preset(preset).teacher.checkpoint
    if own is not None and own.sha256 and Path(file).is_file() and sha256_of(Path(file)).startswith(own.sha256):
        return []
    return ["teacher.reported_miou=null"]


def _allow_partial(preset: Preset) -> None:
    given = [network.checkpoint for network in (preset.teacher, preset.student) if network.checkpoint is not None]
    if not given:
        raise RmrkdError("--allow-partial is about checkpoints, and none is given", "--student-checkpoint FILE")
    for source in given:
        source.allow_partial = True


def _quoted(value: object) -> str:
    import json

    return json.dumps(value)
