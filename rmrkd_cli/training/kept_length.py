"""Keep the length of runs that are resumed: only a length that the user gives trains them further."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.safe_yaml import read_yaml
from rmrkd_cli.presets.schema import PartialSchedule, Preset, Schedule
from rmrkd_cli.training.extension import describe_length, saved_schedule
from rmrkd_cli.training.plan import Run


def keep_lengths(plans: Sequence[list[Run]], chosen: Collection[str], log: Callable[[str], None]) -> list[list[Run]]:
    """Return the runs with the length of those that exist already, and log where this is not the preset's.

    A new run beside existing ones gets their length, so that baseline and distilled student stay comparable, also
    those of other seeds.

    Args:
        plans: The runs of each seed.
        chosen: Roles whose length the user has given; they keep it.
    """
    runs = [run for plan in plans for run in plan]
    kept, notes = [], []
    for plan in plans:
        new_plan = []
        for run in plan:
            saved = None if run.role in chosen else _saved_length(run, [*plan, *runs])
            changed = run if saved is None else replace(run, preset=_with_length(run.preset, saved))
            if (note := _note(run.preset, changed.preset)) not in notes:
                notes.append(note)
            new_plan.append(changed)
        kept.append(new_plan)
    for note in filter(None, notes):
        log(note)
    return kept


def _saved_length(run: Run, others: Sequence[Run]) -> Schedule | None:
    """Return the schedule of an existing run: this one, else one of the same kind (teacher or student)."""
    alike = [other for other in others if (other.role == "teacher") == (run.role == "teacher")]
    candidates = [run, *alike]
    # A run that has not started has only a `config.yaml`, which may be that of a failed attempt.
    candidates.sort(key=lambda candidate: not candidate.run_dir.contains_run)
    for candidate in candidates:
        if candidate.run_dir.config.is_file():
            try:
                contents = read_yaml(candidate.run_dir.config, "configuration")
            except RmrkdError:  # `RunDir.check_usable` reports it
                continue
            if (saved := saved_schedule(contents, candidate.role)) is not None:
                return saved
    return None


def _with_length(preset: Preset, saved: Schedule) -> Preset:
    length = {"iters": saved.iters, "time_budget": saved.time_budget}
    if preset.role != "teacher":
        return preset.model_copy(update={"schedule": preset.schedule.model_copy(update=length)})
    own = (preset.teacher.schedule or PartialSchedule()).model_copy(update=length)
    return preset.model_copy(update={"teacher": preset.teacher.model_copy(update={"schedule": own})})


def _note(before: Preset, now: Preset) -> str:
    """Return the text that says which length is kept; "" where it is the preset's."""
    given, kept = before.schedule_for(before.role), now.schedule_for(now.role)
    if (given.iters, given.time_budget) == (kept.iters, kept.time_budget):
        return ""
    whose, option = "students'", "--max-iters {}" if given.time_budget is None else "--time-budget {}"
    if before.role == "teacher":
        key = "iters" if given.time_budget is None else "time_budget"
        whose, option = "teacher's", f"--set teacher.schedule.{key}={{}}"
    text = f"--resume keeps the {whose} length of {describe_length(kept)}; the preset has {describe_length(given)}"
    if kept.time_budget is None and given.time_budget is None and given.iters > kept.iters:
        return f"{text}: {option.format(given.iters)} trains further"
    if kept.time_budget is not None and given.time_budget is not None and given.time_budget > kept.time_budget:
        return f"{text}: {option.format(_seconds(given.time_budget))} trains further"
    return text


def _seconds(duration: float) -> str:
    return f"{duration:g}s"
