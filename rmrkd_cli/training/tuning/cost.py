"""Say what a search costs before it starts."""

from __future__ import annotations

from collections.abc import Iterator

from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.distributed.device import choose_device
from rmrkd_cli.terminal.durations import format_duration
from rmrkd_cli.training.dry_run import measure_step
from rmrkd_cli.training.tuning.space import search_space
from rmrkd_cli.training.tuning.trial import TuningJob, resolved


def describe_cost(job: TuningJob, trials: int, done: int = 0) -> Iterator[str]:
    """Yield what is searched, and the steps and the time that it takes at most.

    Args:
        done: Trials that are finished already.

    Raises:
        RmrkdError: A network or a loss cannot be used.
    """
    preset = resolved(job.load())
    schedule, device = preset.schedule, choose_device(job.device, None)[0]
    yield f"searched: {'; '.join(parameter.describe() for parameter in search_space(preset))}"
    seconds = measure_step(preset, dataset_info(preset), device, job.code)
    left = max(0, trials - done)
    steps = left * schedule.iters
    validations = schedule.iters // schedule.eval_interval
    yield (
        f"cost: {left} trials of {schedule.iters} iterations, at most {steps:,} steps; a step takes {seconds:.3g} s "
        f"here, so at most {format_duration(steps * seconds)}, and {validations} validations a trial"
    )
    teacher = resolved(job.load(role="teacher"))
    if not teacher.teacher.is_trained and teacher.teacher.outputs is None:
        iters = teacher.schedule_for("teacher").iters
        yield (
            f"the preset has no trained teacher: it is trained first, {iters:,} iterations more; "
            "--teacher-checkpoint FILE names a trained one"
        )
    yield "trials below the median of the others are stopped at a validation, so it usually takes less"
