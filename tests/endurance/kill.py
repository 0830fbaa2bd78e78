"""`kill`: SIGKILL one to five times, at moments drawn and aimed."""

from __future__ import annotations

from tests.endurance.aims import at_checkpoint, at_evaluation, at_random
from tests.endurance.commands import Failed
from tests.endurance.trial import Trial

_AIMS = (at_checkpoint, at_evaluation, at_random)


def kill(trial: Trial) -> None:
    """The process dies, and nothing but `--resume` is done about it."""
    call = trial.call()
    reference = trial.references.of(call)
    resume: tuple[str, ...] = ()
    for _ in range(trial.draw.randint(1, 5)):
        command = trial.start(call, None, *resume)
        if not trial.draw.choice(_AIMS)(command, reference, trial.draw):
            if command.wait() != 0:
                raise Failed(f"{command.told.name} ended by itself: {command.last_words()}")
            trial.hits.append("finished before")
            break  # nothing is left that a kill could hit
        command.kill()
        trial.hits.append(command.watch.hit())
        resume = ("--resume",)
    trial.finish(call, reference)
