"""When to interrupt a run: while a checkpoint is written, during a validation, or at a random time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.endurance.commands import Command
from tests.endurance.reference import Reference
from tests.endurance.watch import EVAL_INTERVAL, ITERS

_POLL = 0.0002  # a checkpoint of the demo is written within milliseconds
_STARTUP = 0.3  # seconds until Python has started and handles signals

Aim = Callable[[Command, Reference, random.Random], bool]
"""Waits for its moment; returns False if the command ended first."""


def at_checkpoint(command: Command, reference: Reference, rng: random.Random) -> bool:
    """Wait until the first to fourth checkpoint is being written; in half of the cases up to 20 ms longer."""
    nth, later = rng.randint(1, 4), rng.choice((0.0, rng.uniform(0, 0.02)))
    seen: set[str] = set()

    def enough() -> bool:
        seen.update(command.watch.new_partials())
        return len(seen) >= nth

    return command.until(enough, every=_POLL) and _after(command, later)


def at_evaluation(command: Command, reference: Reference, rng: random.Random) -> bool:
    """Wait until an iteration before a validation, and up to one second longer."""
    left = [number for number in range(EVAL_INTERVAL, ITERS + 1, EVAL_INTERVAL) if number > command.watch.done]
    target, later = rng.choice(left or [ITERS]), rng.uniform(0, 1)
    return command.until(lambda: command.watch.new_line().get("iter", 0) >= target) and _after(command, later)


def at_random(command: Command, reference: Reference, rng: random.Random) -> bool:
    """Wait for a random part of the time that the command will take, start-up included."""
    return _after(command, rng.uniform(0, reference.expected(command.watch.done, ITERS)))


def at_random_after_start(command: Command, reference: Reference, rng: random.Random) -> bool:
    """Like `at_random`, but not before Python has started."""
    return _after(command, rng.uniform(_STARTUP, reference.expected(command.watch.done, ITERS)))


def _after(command: Command, seconds: float) -> bool:
    until = time.monotonic() + seconds
    return command.until(lambda: time.monotonic() >= until, every=0.001)
