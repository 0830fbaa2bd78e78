"""Which roles a preset trains, in which order and where, and whether their results can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmrkd_cli.console import say
from rmrkd_cli.engine.cluster import Cluster
from rmrkd_cli.engine.run_dir import RunDir, run_path
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.report import read_record
from rmrkd_cli.schema import CheckpointSource, Preset


def plan_of(preset: Preset, work_dir: Path | None) -> list[tuple[Preset, RunDir]]:
    """The preset of each role to be trained, and its directory."""
    root = work_dir if work_dir is not None else Path("work_dirs") / preset.name
    return [
        (
            preset.model_copy(update={"role": role, "teacher": _teacher_for(preset, role, root)}),
            RunDir(run_path(root, role, preset.method)),
        )
        for role in roles_of(preset)
    ]


def check_comparable(plan: list[tuple[Preset, RunDir]], left: list[str], cluster: Cluster, *, force: bool) -> None:
    """A student that is still to be trained must see the batches that the finished baseline saw.

    Raises:
        RmrkdError: When it would not; with `force` that is only said.
    """
    finished = [files for own, files in plan if own.role == "baseline"]
    if not finished or not left:
        return
    trained = read_record(finished[0].result).get("training") or {}
    schedule = plan[-1][0].schedule
    before = [trained.get(key) for key in ("workers", "batch_size", "accumulate")]
    now = [cluster.size, schedule.batch_size, schedule.accumulate]
    if None in before or before == now:
        return
    shown = ["{} worker(s) x {} images x {} pass(es)".format(*numbers) for numbers in (before, now)]
    told = f"the finished baseline was trained by {shown[0]}, {' and '.join(left)} would be by {shown[1]}"
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
