"""Which roles a preset trains, for which seeds, in which order and where, and whether their results can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.schema import CheckpointSource, Preset
from rmrkd_cli.results.record import read_record
from rmrkd_cli.terminal.console import say
from rmrkd_cli.terminal.durations import duration
from rmrkd_cli.training.run_directory import RunDir, run_path


@dataclass(frozen=True, eq=False)
class Run:
    """One role of one seed, and its directory.

    Attributes:
        preset: With this role and seed; one that distils names the teacher it is taught by.
        taught_here: That teacher is trained by the same command.
    """

    preset: Preset
    files: RunDir
    taught_here: bool = False

    @property
    def role(self) -> str:
        return self.preset.role


def plan_of(preset: Preset, work_dir: Path | None, seeds: Sequence[int] | None = None) -> list[list[Run]]:
    """The runs of each seed.

    Args:
        seeds: Each has a directory of its own below the work directory; none for the preset's seed, in that itself.
    """
    root = work_dir if work_dir is not None else Path("work_dirs") / preset.name
    if seeds is None:
        return [_runs(preset, root)]
    return [_runs(preset.model_copy(update={"seed": seed}), root / f"seed-{seed}") for seed in seeds]


def _runs(preset: Preset, root: Path) -> list[Run]:
    roles = roles_of(preset)
    return [
        Run(
            preset.model_copy(update={"role": role, "teacher": _teacher_for(preset, role, root)}),
            RunDir(run_path(root, role, preset.method)),
            taught_here=role == "distill" and "teacher" in roles,
        )
        for role in roles
    ]


def check_comparable(plan: Sequence[Run], left: Sequence[Run], cluster: Cluster, *, force: bool) -> None:
    """A student that is still to be trained must see the batches that the finished baseline saw, in the same time.

    Args:
        plan, left: The runs of one seed, and those of them that are not finished.

    Raises:
        RmrkdError: When it would not; with `force` that is only said.
    """
    finished = [run for run in plan if run.role == "baseline" and run not in left]
    if not finished or not left:
        return
    trained = read_record(finished[0].files.result).get("training") or {}
    schedule = plan[-1].preset.schedule
    before = [trained.get(key) for key in ("workers", "batch_size", "accumulate")]
    now = [cluster.size, schedule.batch_size, schedule.accumulate]
    budgets = trained.get("time_budget"), schedule.time_budget
    if None in before or (before == now and budgets[0] == budgets[1]):
        return
    batches = ["{} worker(s) x {} images x {} pass(es)".format(*numbers) for numbers in (before, now)]
    times = [f" in {duration(budget)}" if budget is not None else "" for budget in budgets]
    shown = [text + time for text, time in zip(batches, times, strict=True)]
    roles = " and ".join(run.role for run in left)
    told = f"the finished baseline was trained by {shown[0]}, {roles} would be by {shown[1]}"
    if not force:
        raise RmrkdError(f"{told}: their results could not be compared", "--force to go on all the same")
    say(f"{told}: their results are not comparable")


def roles_of(preset: Preset) -> list[str]:
    if preset.role != "all":
        return [preset.role]
    return [*(["teacher"] if preset.teacher.checkpoint is None else []), "baseline", "distill"]


def _teacher_for(preset: Preset, role: str, root: Path) -> Any:
    """A preset that trains its own teacher finds it beside the other roles."""
    if role != "distill" or preset.teacher.checkpoint is not None:
        return preset.teacher
    source = CheckpointSource(path=str(root / "teacher" / "student.pth"))
    return preset.teacher.model_copy(update={"checkpoint": source})
