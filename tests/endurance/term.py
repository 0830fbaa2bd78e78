"""`term`: a stop signal, and how soon the run stops."""

from __future__ import annotations

import shutil
import signal
import time

from tests.endurance.aims import at_evaluation, at_random_after_start
from tests.endurance.commands import Command, TrialFailed
from tests.endurance.trial import Trial

_SIGNALS = {0: (signal.SIGINT, 130), 1: (signal.SIGUSR1, 143)}  # one fifth of the trials each; the others SIGTERM
_SOON, _AT_ONCE = 10.0, 1.0  # seconds


def term(trial: Trial) -> None:
    """The run exits with the signal's status within ten seconds, and resumes to the same result."""
    call = trial.call()
    reference = trial.references.of(call)
    signum, expected = _SIGNALS.get(trial.number % 5, (signal.SIGTERM, 143))
    trial.notes["signal"] = signum.name
    while not trial.events:
        shutil.rmtree(trial.folder / "work", ignore_errors=True)
        command = trial.start(call)
        aim = at_evaluation if trial.rng.randrange(3) == 0 else at_random_after_start
        if aim(command, reference, trial.rng):
            _stop(trial, command, signum, expected)
        elif command.wait() != 0:
            raise TrialFailed(f"{command.output.name} ended by itself: {command.last_lines()}")
    trial.finish(call, reference)


def _stop(trial: Trial, command: Command, signum: signal.Signals, expected: int) -> None:
    """Send the signal; a signal after the end of training is not counted."""
    sent = time.monotonic()
    command.send(signum)
    phase = command.watch.phase()
    code = command.wait()
    reaction = time.monotonic() - sent
    if code == 0 and (phase == "end" or reaction < _AT_ONCE):
        return
    trial.events.append(phase)
    trial.reaction = reaction
    trial.notes["after"] = sent - command.began
    if code != expected:
        raise TrialFailed(
            f"exit status {code} instead of {expected}, {signum.name} during {phase}: {command.last_lines()}"
        )
    if reaction > _SOON:
        raise TrialFailed(f"{reaction:.1f} s from {signum.name} to the exit, during {phase}")
