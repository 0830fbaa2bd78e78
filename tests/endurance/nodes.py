"""`nodes`: two launchers that meet on this machine; one of them is killed and started again."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.endurance.commands import Command
from tests.endurance.reference import PAIR, free_port, machine_options
from tests.endurance.trial import Trial
from tests.endurance.workers import RESTARTS

_PAUSE = 5.0  # seconds at most until the killed one is started again


def nodes(trial: Trial) -> None:
    """Node 1 in even trials, node 0 in odd ones; the other one waits for it, and both end well."""
    reference = trial.references.of(PAIR)  # two machines of one worker end as one machine of two
    call, port = replace(PAIR, options=("--nodes", "2", "--batch-size", "4", *RESTARTS)), free_port()
    started = [trial.start(call, None, *machine_options(rank, port)) for rank in range(2)]
    lost = 1 - trial.number % 2
    later, pause = trial.draw.random(), trial.draw.uniform(0, _PAUSE)
    first = started[0]
    striking = first.until(lambda: bool(first.watch.new_line()))
    if striking and _pause(started[lost], later * (reference.seconds - reference.startup)):
        started[lost].kill()
        trial.hits.append(f"node {lost}: {first.watch.hit()}")
        time.sleep(pause)
        started[lost] = trial.start(call, None, *machine_options(lost, port), "--resume")
    else:
        trial.hits.append("finished before")
    for command in started:
        command.expect(0)
    trial.compare(first.watch.run_dir, reference)


def _pause(command: Command, seconds: float) -> bool:
    until = time.monotonic() + seconds
    return command.until(lambda: time.monotonic() >= until)
