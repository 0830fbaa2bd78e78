"""`workers`: one of two worker processes is killed, and the launcher starts them again."""

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
    """One command, killed below the launcher up to three times, ends as if it had not been."""
    reference = trial.references.of(PAIR)
    command = trial.start(replace(PAIR, options=PAIR.options + RESTARTS))
    before: set[processes.Process] = set()
    for _ in range(trial.draw.randint(1, 3)):
        hit, before = _strike(trial, command, reference, before)
        trial.hits.append(hit)
        if hit == "finished before":
            break
    command.expect(0)
    trial.compare(command.watch.run_dir, reference)


def _strike(
    trial: Trial, command: Command, reference: Reference, before: set[processes.Process]
) -> tuple[str, set[processes.Process]]:
    """Kills a worker of those that the launcher started after `before`; what it hit, and who was there.

    Half of the strikes wait for a step first: on a small data set most of the time is start-up.
    """
    there: set[processes.Process] = set()
    victim, later, trained = trial.draw.randrange(2), trial.draw.random(), trial.draw.random() < 0.5

    def both() -> bool:
        there.clear()
        there.update(processes.children(command.process.pid, with_argument=WORKER))
        return len(there) == 2 and not there & before

    if not command.until(both, every=0.05):
        return "finished before", there
    watch = Watch(command.watch.run_dir)  # of this start alone
    expected = reference.expected(watch.done, ITERS)
    if trained:
        command.until(lambda: bool(watch.new_line()))
        expected -= reference.startup
    until = time.monotonic() + later * expected
    alive = command.until(lambda: time.monotonic() >= until)
    if not alive or not processes.end(sorted(there)[victim]):
        return "finished before", there
    return watch.hit(), there
