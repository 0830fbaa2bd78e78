"""The seconds of a training step of each row, measured one after another while nothing else runs."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.camvid import plan
from benchmarks.camvid.plan import Files, Row
from benchmarks.machine import describe_machine
from benchmarks.records import write
from benchmarks.training import Start
from rmrkd_cli.results.training_log import find_log

STEPS, ROUNDS = 12, 3


def measure(files: Files, rows: Sequence[Row], say: Callable[[str], object], run: Start) -> list[str]:
    """Train each row for some steps, in turns, and keep the smallest median time of a step.

    Other programs on the machine can only make a step slower. Return the names of what failed.

    Args:
        run: Runs `rmrkd` with these arguments.
    """
    costs: dict[str, float] = {}
    for number in range(ROUNDS):
        for row in rows:
            folder = files.folder / "costs" / row.name
            shutil.rmtree(folder, ignore_errors=True)
            say(f"time of a step, {row.name}, {number + 1} of {ROUNDS}")
            training = plan.training(files, row, 0, STEPS, None, folder)
            # The learning rate does not change the time, and a small one cannot diverge.
            short = [f"schedule.eval_interval={STEPS}", "schedule.log_interval=1", "schedule.lr=1.0e-6"]
            short += ["teacher.min_miou=0", f"data.root={json.dumps(str(files.one_val))}"]  # no long evaluations
            training = replace(training, settings=(*training.settings, *short))
            if run(training.arguments(), files.folder / "output" / f"cost-{row.name}.txt"):
                return [f"time of a step, {row.name}"]
            [done] = training.runs()
            lines = map(json.loads, find_log(done.run_dir.path).read_text().splitlines())
            seconds = statistics.median(line["seconds"] for line in lines if "losses" in line)
            costs[row.name] = min(seconds, costs.get(row.name, seconds))
    write(files.costs, {"settings": [*files.settings], "seconds": costs, "machine": describe_machine("cpu")})
    return []
