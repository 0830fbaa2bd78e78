"""`term`: one signal that asks the run to stop, and how soon it does."""

from __future__ import annotations

import shutil
import signal
import time

from tests.endurance.aims import at_evaluation, at_random_awake
from tests.endurance.commands import Command, Failed
from tests.endurance.trial import Trial

_SIGNALS = {0: (signal.SIGINT, 130), 1: (signal.SIGUSR1, 143)}  # every fifth trial each; the others SIGTERM
_SOON, _AT_ONCE = 10.0, 1.0  # seconds


def term(trial: Trial) -> None:
    """The exit status says so within ten seconds, and `--resume` ends as if there had been no signal."""
    call = trial.call()
    reference = trial.references.of(call)
    signum, expected = _SIGNALS.get(trial.number % 5, (signal.SIGTERM, 143))
    trial.notes["signal"] = signum.name
    while not trial.hits:
        shutil.rmtree(trial.room / "work", ignore_errors=True)
        command = trial.start(call)
        aim = at_evaluation if trial.draw.randrange(3) == 0 else at_random_awake
        if aim(command, reference, trial.draw):
            _stop(trial, command, signum, expected)
        elif command.wait() != 0:
            raise Failed(f"{command.told.name} ended by itself: {command.last_words()}")
    trial.finish(call, reference)


def _stop(trial: Trial, command: Command, signum: signal.Signals, expected: int) -> None:
    """Sends the signal; one that came when nothing was left to stop is not counted."""
    sent = time.monotonic()
    command.send(signum)
    hit = command.watch.hit()
    code = command.wait()
    reaction = time.monotonic() - sent
    if code == 0 and (hit == "end" or reaction < _AT_ONCE):
        return
    trial.hits.append(hit)
    trial.reaction = reaction
    trial.notes["after"] = sent - command.began
    if code != expected:
        raise Failed(f"exit status {code} in place of {expected}, {signum.name} hit {hit}: {command.last_words()}")
    if reaction > _SOON:
        raise Failed(f"{reaction:.1f} s from {signum.name} to the exit, which hit {hit}")
