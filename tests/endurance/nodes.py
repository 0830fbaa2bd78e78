"""`nodes`: two launchers on this machine; one of them is killed and restarted."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.endurance.commands import Command
from tests.endurance.reference import PAIR, machine_options
from tests.endurance.trial import Trial
from tests.endurance.workers import RESTARTS
from tests.helpers.ports import free_port

_PAUSE = 5.0  # maximum seconds until the killed launcher is restarted


def nodes(trial: Trial) -> None:
    """Kill node 1 in even trials, node 0 in odd ones; the other node waits for it, and both succeed."""
    reference = trial.references.of(PAIR)  # two machines with one worker give the result of one machine with two
    call, port = replace(PAIR, options=("--nodes", "2", "--batch-size", "4", *RESTARTS)), free_port()
    started = [trial.start(call, None, *machine_options(rank, port)) for rank in range(2)]
    lost = 1 - trial.number % 2
    later, pause = trial.rng.random(), trial.rng.uniform(0, _PAUSE)
    first = started[0]
    still_running = first.until(lambda: bool(first.watch.new_line()))
    if still_running and _pause(started[lost], later * (reference.seconds - reference.startup)):
        started[lost].kill()
        trial.events.append(f"node {lost}: {first.watch.phase()}")
        time.sleep(pause)
        started[lost] = trial.start(call, None, *machine_options(lost, port), "--resume")
    else:
        trial.events.append("finished before")
    for command in started:
        command.expect(0)
    trial.compare(first.watch.run_dir, reference)


def _pause(command: Command, seconds: float) -> bool:
    until = time.monotonic() + seconds
    return command.until(lambda: time.monotonic() >= until)
