"""The moment to strike: while a checkpoint is written, during an evaluation, or any."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.endurance.commands import Command
from tests.endurance.reference import Reference
from tests.endurance.watch import EVAL_INTERVAL, ITERS

_POLL = 0.0002  # a checkpoint of the demo is written within milliseconds
_DEAF = 0.3  # seconds before Python has begun; a signal there is the shell's matter

Aim = Callable[[Command, Reference, random.Random], bool]
"""Waits for its moment; False where the command ended before."""


def at_checkpoint(command: Command, reference: Reference, draw: random.Random) -> bool:
    """As soon as the first to fourth checkpoint is begun; in half of the cases a little later, when it is named."""
    nth, later = draw.randint(1, 4), draw.choice((0.0, draw.uniform(0, 0.02)))
    seen: set[str] = set()

    def begun() -> bool:
        seen.update(command.watch.new_partials())
        return len(seen) >= nth

    return command.until(begun, every=_POLL) and _after(command, later)


def at_evaluation(command: Command, reference: Reference, draw: random.Random) -> bool:
    """Within a second after an iteration that an evaluation follows; any of those that are left."""
    left = [number for number in range(EVAL_INTERVAL, ITERS + 1, EVAL_INTERVAL) if number > command.watch.done]
    target, later = draw.choice(left or [ITERS]), draw.uniform(0, 1)
    return command.until(lambda: command.watch.new_line().get("iter", 0) >= target) and _after(command, later)


def at_random(command: Command, reference: Reference, draw: random.Random) -> bool:
    """Anywhere in the time the command is expected to take, start-up included."""
    return _after(command, draw.uniform(0, reference.expected(command.watch.done, ITERS)))


def at_random_awake(command: Command, reference: Reference, draw: random.Random) -> bool:
    """As `at_random`, but not before Python has begun."""
    return _after(command, draw.uniform(_DEAF, reference.expected(command.watch.done, ITERS)))


def _after(command: Command, seconds: float) -> bool:
    until = time.monotonic() + seconds
    return command.until(lambda: time.monotonic() >= until, every=0.001)
