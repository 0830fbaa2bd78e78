"""Training of all roles and seeds of a preset, in order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.distributed.job import TrainJob
    from rmrkd_cli.presets.schema import Preset
    from rmrkd_cli.results.record import Record
    from rmrkd_cli.training.plan import Run


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
    from rmrkd_cli.distributed.launcher import execute
    from rmrkd_cli.results.record import read_record
    from rmrkd_cli.terminal import console
    from rmrkd_cli.training.plan import plan_of

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
    from rmrkd_cli.checkpoints.reader import read_checkpoint
    from rmrkd_cli.distillation.custom_loss import check_same_code, hashes
    from rmrkd_cli.training.plan import check_comparable

    if cluster.is_first:
        for run in (run for plan in plans for run in plan):
            run.files.check(run.preset, resume=resume, fresh=fresh, force=force)
            if resume and not run.files.finished:
                run.files.checkpoints.check_resumable()
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
    from rmrkd_cli.training import preflight

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
    from rmrkd_cli.distributed.job import TrainJob

    return TrainJob(
        preset=run.preset.model_dump(mode="json"), role=run.role, run_dir=str(run.files.path), device=device, **how
    )
