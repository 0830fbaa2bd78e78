"""The runs of one command: which roles are trained for which seeds, in which order and directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.network_schema import CheckpointSource
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.results.record import read_record
from rmrkd_cli.terminal.durations import format_duration
from rmrkd_cli.terminal.messages import log
from rmrkd_cli.training.run_directory import RunDir, run_path

WORK_DIRS = Path("work_dirs")  # has a folder for each preset


@dataclass(frozen=True, eq=False)
class Run:
    """One role of one seed, and its directory.

    Attributes:
        preset: With this role and seed. The preset of a distillation names its teacher's checkpoint.
        teacher_in_plan: The same command trains that teacher first.
        students_in_plan: The same command distils from this teacher.
    """

    preset: Preset
    run_dir: RunDir
    teacher_in_plan: bool = False
    students_in_plan: bool = False

    @property
    def role(self) -> str:
        return self.preset.role

    @cached_property
    def is_done(self) -> bool:
        """Whether nothing is left to train: the run is as long as its preset says, or must not be trained further.

        A teacher is not trained further by role `all` once a student was distilled from it: that student would have had
        another teacher.
        """
        if not self.run_dir.finished or self.run_dir.is_finished(self.preset):
            return self.run_dir.finished
        students = self.run_dir.path.parent.glob("distill*")
        if self.students_in_plan and any(RunDir(path).contains_run for path in students):
            log(
                f"`{self.run_dir.path}` is not trained further, because students were distilled from it: "
                "--role teacher --resume trains it further, and --fresh its students anew"
            )
            return True
        return False


def plan_runs(preset: Preset, work_dir: Path | None, seeds: Sequence[int] | None = None) -> list[list[Run]]:
    """Return the runs of each seed, in the order of training.

    Args:
        work_dir: None for `work_dirs/<preset>`.
        seeds: Each seed gets its own directory `seed-N` in the work directory. None: only the preset's seed, in the
            work directory itself.
    """
    if preset.teacher.weights is not None:
        from rmrkd_cli.networks.libraries import resolve_weights

        preset = resolve_weights(preset)
    root = work_dir if work_dir is not None else WORK_DIRS / preset.name
    if seeds is None:
        return [_runs_of_seed(preset, root)]
    return [_runs_of_seed(preset.model_copy(update={"seed": seed}), root / f"seed-{seed}") for seed in seeds]


def _runs_of_seed(preset: Preset, root: Path) -> list[Run]:
    roles = roles_to_train(preset)
    runs = []
    for role in roles:
        teacher = preset.teacher
        if role == "distill" and not teacher.is_trained and teacher.outputs is None:  # role `teacher` trains it
            source = CheckpointSource(path=str(root / "teacher" / "student.pth"))
            teacher = teacher.model_copy(update={"checkpoint": source})
        run_preset = preset.model_copy(update={"role": role, "teacher": teacher})
        run_dir = RunDir(run_path(root, role, preset.method))
        runs.append(
            Run(
                run_preset,
                run_dir,
                teacher_in_plan=role == "distill" and "teacher" in roles,
                students_in_plan=role == "teacher" and "distill" in roles,
            )
        )
    return runs


def roles_to_train(preset: Preset) -> list[str]:
    """Return the preset's role; for `all`, every role that has no checkpoint yet, in order."""
    if preset.role != "all":
        return [preset.role]
    needs_training = not preset.teacher.is_trained and preset.teacher.outputs is None
    return [*(["teacher"] if needs_training else []), "baseline", "distill"]


def check_comparable(plan: Sequence[Run], unfinished: Sequence[Run], cluster: Cluster, *, force: bool) -> None:
    """Check that the students left to train see the same batches, for the same time, as the finished baseline.

    Args:
        plan: The runs of one seed.
        unfinished: Those of them that are left to train.

    Raises:
        RmrkdError: When they would not; with `force` print a warning instead.
    """
    finished = [run for run in plan if run.role == "baseline" and run not in unfinished]
    if not finished or not unfinished:
        return
    trained = read_record(finished[0].run_dir.result).get("training") or {}
    schedule = plan[-1].preset.schedule
    before = [trained.get(key) for key in ("workers", "batch_size", "accumulate")]
    now = [cluster.size, schedule.batch_size, schedule.accumulate]
    budgets = trained.get("time_budget"), schedule.time_budget
    if None in before or (before == now and budgets[0] == budgets[1]):
        return
    batches = ["{} worker(s) x {} images x {} pass(es)".format(*numbers) for numbers in (before, now)]
    times = [f" in {format_duration(budget)}" if budget is not None else "" for budget in budgets]
    settings = [text + time for text, time in zip(batches, times, strict=True)]
    roles = " and ".join(run.role for run in unfinished)
    message = f"the finished baseline was trained by {settings[0]}, {roles} would be trained by {settings[1]}"
    if not force:
        raise RmrkdError(f"{message}: their results would not be comparable", "--force trains anyway")
    log(f"{message}: their results are not comparable")
