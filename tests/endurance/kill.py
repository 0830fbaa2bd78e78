"""`kill`: SIGKILL one to five times, at random and at critical moments."""

from __future__ import annotations

from tests.endurance.aims import at_checkpoint, at_evaluation, at_random
from tests.endurance.commands import TrialFailed
from tests.endurance.trial import Trial

_AIMS = (at_checkpoint, at_evaluation, at_random)


def kill(trial: Trial) -> None:
    """Kill the process, and resume with `--resume` alone."""
    call = trial.call()
    reference = trial.references.of(call)
    resume: tuple[str, ...] = ()
    for _ in range(trial.rng.randint(1, 5)):
        command = trial.start(call, None, *resume)
        if not trial.rng.choice(_AIMS)(command, reference, trial.rng):
            if command.wait() != 0:
                raise TrialFailed(f"{command.output.name} ended by itself: {command.last_lines()}")
            trial.events.append("finished before")
            break  # nothing is left to kill
        command.kill()
        trial.events.append(command.watch.phase())
        resume = ("--resume",)
    trial.finish(call, reference)
