"""Train all roles and seeds of a preset, in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.training.trackers.names import DEFAULT, require_trackers

if TYPE_CHECKING:
    from rmrkd_cli.data.image_cache import CacheFile
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.distributed.job import PrepareJob, TrainJob
    from rmrkd_cli.presets.schema import Preset
    from rmrkd_cli.results.record import Record
    from rmrkd_cli.training.plan import Run

_open_caches: list[CacheFile] = []  # until this process ends


def train(
    preset: Preset,
    work_dir: Path | None = None,
    device: str = "auto",
    cluster: Cluster | None = None,
    *,
    seeds: Sequence[int] | None = None,
    code: tuple[str, ...] = (),
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
    chosen_lengths: Collection[str] | None = None,
    track: Sequence[str] = DEFAULT,
) -> list[Record]:
    """Train the preset's roles one after the other, for each seed, and return their result records.

    All inputs and run directories are checked before the first run starts. Each run writes its checkpoints, log,
    student and result to `<work_dir>/<role>`, or to `<work_dir>/seed-N/<role>` with `seeds`.

    Args:
        preset: A preset of `load_preset`.
        work_dir: None for `work_dirs/<preset>`.
        device: "auto", "cpu" or "cuda"; "auto" selects a GPU if there is one.
        cluster: Number of worker processes and machines; None trains in this process.
        seeds: Seeds to train, each in its own directory; None for the preset's seed.
        code: Python files that custom losses may be loaded from.
        resume: Continue unfinished runs, and keep finished ones.
        fresh: Start over; existing run directories are renamed.
        force: Resume even if the number of workers or the batch size changed.
        chosen_lengths: With `resume`: roles that are trained further if the preset is longer than their run; other
            roles keep the length of the run. None: all roles.
        track: Trackers, of `tensorboard`, `wandb` and `mlflow`; empty for none.

    Returns:
        The records of all runs in the order of training; an empty list on machines other than the first.

    Raises:
        RmrkdError: When an input is missing, or a run directory is in use or contains another run.
        RunError: When a training fails.
        Interrupted: After a signal, when the state is saved.
    """
    from rmrkd_cli.data import loader_server
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.distributed.device import choose_device
    from rmrkd_cli.distributed.launcher import execute
    from rmrkd_cli.presets import user_code
    from rmrkd_cli.results.record import read_record
    from rmrkd_cli.terminal import messages
    from rmrkd_cli.training.kept_length import keep_lengths
    from rmrkd_cli.training.plan import plan_runs

    user_code.allow_files(code)
    cluster = cluster or Cluster()
    if cluster.is_first_node:
        require_trackers(track)
    if device == "auto":
        device, _ = choose_device(device, cluster.workers)
    if cluster.runs_here:
        loader_server.start_loader_server(preset.schedule.workers)
    plans = plan_runs(preset, work_dir, seeds)
    if resume and chosen_lengths is not None:
        plans = keep_lengths(plans, chosen_lengths, messages.log if cluster.is_first_node else lambda _: None)
    runs = [run for plan in plans for run in plan]
    unfinished = _unfinished_runs(plans, cluster, code=code, resume=resume, fresh=fresh, force=force)
    with ExitStack() as stack:
        image_cache = _run_preflight(
            preset, unfinished, device, cluster.size, code=code, fresh=fresh, is_first_node=cluster.is_first_node
        )
        if image_cache is not None:
            stack.enter_context(image_cache)
        if cluster.external:
            _prepare_other_machines(preset, unfinished, device, cluster, code)
        if cluster.is_first_node:
            for run in unfinished:
                stack.enter_context(run.run_dir.lock())
                run.run_dir.create(run.preset, fresh=fresh)
        if image_cache is not None:
            messages.log(f"decoded training images: {image_cache.size / 1e9:.2f} GB in {image_cache.location}")
        for run in _teachers_to_measure(unfinished):
            execute(_make_job(run, device, only_measure=True, code=code), cluster)
        cache_path = image_cache.path if image_cache is not None else None
        for run in runs:
            if run not in unfinished:
                label = run.role if seeds is None else f"seed {run.preset.seed}: {run.role}"
                messages.log(f"{label} is already finished: {run.run_dir.path}")
                continue
            if seeds is not None:
                messages.log(f"seed {run.preset.seed}, {seeds.index(run.preset.seed) + 1} of {len(seeds)}: {run.role}")
            job = _make_job(run, device, image_cache=cache_path, code=code, force=force, track=tuple(track))
            execute(job, cluster)
    return [read_record(run.run_dir.result) for run in runs] if cluster.is_first_node else []


def _unfinished_runs(
    plans: list[list[Run]], cluster: Cluster, *, code: Sequence[str], resume: bool, fresh: bool, force: bool
) -> list[Run]:
    """Return the runs that are left to train.

    Raises:
        RmrkdError: When one of them cannot be trained in its directory.
    """
    from rmrkd_cli.checkpoints.reader import read_checkpoint
    from rmrkd_cli.distillation.custom_loss import hashes
    from rmrkd_cli.distillation.factory import config_digests
    from rmrkd_cli.networks.mmseg_file import check_same_configs
    from rmrkd_cli.presets import user_code
    from rmrkd_cli.training.plan import check_comparable

    if cluster.is_first_node:
        for run in (run for plan in plans for run in plan):
            run.run_dir.check_usable(run.preset, resume=resume, fresh=fresh, force=force)
            if resume and not run.is_done:
                run.run_dir.checkpoints.check_resumable(required=run.run_dir.finished)
            if resume and run.run_dir.finished:
                now = user_code.hashes(user_code.network_files(run.preset, run.role))
                now |= hashes(run.preset, code) if run.role == "distill" else {}
                configs = config_digests(run.preset, run.role)
                if now or configs or run.role == "distill":
                    meta = read_checkpoint(run.run_dir.student, lazy=True).meta
                    user_code.check_same_code(meta, now, run.run_dir.path)
                    check_same_configs(meta, configs, run.run_dir.path)
    unfinished = [[run for run in plan if not (resume and run.is_done)] for plan in plans]
    if cluster.is_first_node:
        for plan, of_plan in zip(plans, unfinished, strict=True):
            check_comparable(plan, of_plan, cluster, force=force)
    return [run for of_plan in unfinished for run in of_plan]


def _run_preflight(
    preset: Preset,
    unfinished: list[Run],
    device: str,
    workers: int,
    *,
    code: Sequence[str],
    fresh: bool,
    is_first_node: bool,
) -> CacheFile | None:
    """Check all inputs once for all runs; return the image cache if the preset asks for one.

    Raises:
        RmrkdError: For the first input that is missing or cannot be used.
    """
    from rmrkd_cli.training import preflight

    distillations = [run for run in unfinished if run.role == "distill"]
    with_teacher = [run.preset for run in distillations if not run.teacher_in_plan]
    for other in with_teacher[1:]:
        if other.teacher != with_teacher[0].teacher:
            preflight.check_teacher(other)
    for run in distillations:
        trains = any(other.role == "teacher" and other.preset.seed == run.preset.seed for other in unfinished)
        if run.teacher_in_plan and not trains:  # its teacher was trained before
            preflight.check_teacher(run.preset)
    first = with_teacher[0] if with_teacher else preset
    return preflight.check_inputs(
        first, unfinished, device=device, workers=workers, code=code, fresh=fresh, is_first_node=is_first_node
    )


def _prepare_other_machines(
    preset: Preset, unfinished: list[Run], device: str, cluster: Cluster, code: tuple[str, ...]
) -> None:
    """Check and download the inputs on the other machines of another launcher."""
    from rmrkd_cli.distributed.job import PrepareJob
    from rmrkd_cli.distributed.launcher import execute

    runs = tuple((run.preset, run.teacher_in_plan) for run in unfinished)
    execute(PrepareJob(preset=preset, runs=runs, device=device, workers=cluster.size, code=code), cluster)


def prepare_machine(job: PrepareJob) -> None:
    """Do the checks and downloads of `train` on a machine that is not the first, and keep its image cache open.

    Raises:
        RmrkdError: For the first input that is missing or cannot be used.
    """
    from rmrkd_cli.distributed.coordination import current_coordinator
    from rmrkd_cli.training.plan import Run
    from rmrkd_cli.training.run_directory import RunDir

    runs = [Run(preset, RunDir(Path()), teacher_in_plan) for preset, teacher_in_plan in job.runs]
    cache = _run_preflight(job.preset, runs, job.device, job.workers, code=job.code, fresh=False, is_first_node=False)
    coordinator = current_coordinator()
    if cache is not None and coordinator is not None:
        _open_caches.append(cache)
        coordinator.set_image_cache(cache.path)


def _teachers_to_measure(unfinished: list[Run]) -> list[Run]:
    """Return a run for each existing teacher to measure before all runs, which may take days.

    If the first run is a distillation it measures its own teacher.
    """
    teachers = [unfinished[0].preset.teacher] if unfinished and unfinished[0].role == "distill" else []
    chosen = []
    for run in unfinished:
        if run.role == "distill" and not run.teacher_in_plan and run.preset.teacher not in teachers:
            teachers.append(run.preset.teacher)
            chosen.append(run)
    return chosen


def _make_job(run: Run, device: str, **options: Any) -> TrainJob:
    from rmrkd_cli.distributed.job import TrainJob

    return TrainJob(preset=run.preset, run_dir=str(run.run_dir.path), device=device, **options)
