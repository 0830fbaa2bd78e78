"""The learning rate of each step."""

from __future__ import annotations

from rmrkd_cli.presets.schema import Schedule


def learning_rate(schedule: Schedule, step: float, factor: float = 1.0) -> float:
    """Return the learning rate of a step: mmcv's poly policy with a minimum, and its linear warm-up.

    Args:
        schedule: The schedule.
        step: 0 to `schedule.iters`; between iterations with a time budget.
        factor: Of the parameters, their `lr_mult`. It multiplies `lr`, not `min_lr`.
    """
    remaining: float = (1.0 - step / schedule.iters) ** schedule.power
    rate = (schedule.lr * factor - schedule.min_lr) * remaining + schedule.min_lr
    warmup = schedule.warmup
    if warmup is None or step >= warmup.iters:
        return rate
    return rate * (1 - (1 - step / warmup.iters) * (1 - warmup.ratio))
