"""`workers`: one of two worker processes is killed, and the launcher restarts them."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.endurance import processes
from tests.endurance.commands import Command
from tests.endurance.reference import PAIR, Reference
from tests.endurance.trial import Trial
from tests.endurance.watch import ITERS, Watch

WORKER = "rmrkd_cli.distributed.worker"  # an argument of every worker's command line
RESTARTS = ("--max-restarts", "5")


def workers(trial: Trial) -> None:
    """Kill workers of one command up to three times; the command must give the same result."""
    reference = trial.references.of(PAIR)
    command = trial.start(replace(PAIR, options=PAIR.options + RESTARTS))
    before: set[processes.Process] = set()
    for _ in range(trial.rng.randint(1, 3)):
        phase, before = _kill_one(trial, command, reference, before)
        trial.events.append(phase)
        if phase == "finished before":
            break
    command.expect(0)
    trial.compare(command.watch.run_dir, reference)


def _kill_one(
    trial: Trial, command: Command, reference: Reference, before: set[processes.Process]
) -> tuple[str, set[processes.Process]]:
    """Kill one of the workers that are not in `before`; return the phase of the run, and the current workers.

    In half of the cases wait for a step first, because start-up takes most of the time.
    """
    current: set[processes.Process] = set()
    victim, later, trained = trial.rng.randrange(2), trial.rng.random(), trial.rng.random() < 0.5

    def both_started() -> bool:
        current.clear()
        current.update(processes.children(command.process.pid, with_argument=WORKER))
        return len(current) == 2 and not current & before

    if not command.until(both_started, every=0.05):
        return "finished before", current
    watch = Watch(command.watch.run_dir)  # of this attempt only
    expected = reference.expected(watch.done, ITERS)
    if trained:
        command.until(lambda: bool(watch.new_line()))
        expected -= reference.startup
    until = time.monotonic() + later * expected
    running = command.until(lambda: time.monotonic() >= until)
    if not running or not processes.end(sorted(current)[victim]):
        return "finished before", current
    return watch.phase(), current
