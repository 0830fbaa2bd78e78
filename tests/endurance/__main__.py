"""`python -m tests.endurance [NAME ...]`"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.endurance.commands import Stopped, stopping
from tests.endurance.damage import damage
from tests.endurance.disk import disk
from tests.endurance.kill import kill
from tests.endurance.nodes import nodes
from tests.endurance.reference import References
from tests.endurance.report import Results, failed, table
from tests.endurance.term import term
from tests.endurance.trial import Trial
from tests.endurance.workers import workers

Experiment = Callable[[Trial], None]
EXPERIMENTS: dict[str, tuple[Experiment, int]] = {
    "kill": (kill, 50),
    "term": (term, 30),
    "workers": (workers, 10),
    "nodes": (nodes, 4),
    "damage": (damage, 12),
    "disk": (disk, 4),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the experiments; return 1 if a trial failed, 130 if the experiments were stopped, else 0."""
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    names = given.names or list(EXPERIMENTS)
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    results = Results(output / "results.jsonl", given.seed)
    if not given.summary:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        wanted = [(name, number) for name in names for number in results.missing(name, _trials(name, given.trials))]
        _run_all(wanted, results, output, given.parallel)
    print(table(results, names))
    if stopping.is_set():
        return 130
    return 1 if failed(results, names) else 0


def _run_all(wanted: list[tuple[str, int]], results: Results, output: Path, parallel: int) -> None:
    """Run trials one after the other, or several in parallel on one core each."""
    references = References(output / "reference")
    cores: SimpleQueue[int | None] = SimpleQueue()
    allowed = sorted(os.sched_getaffinity(0))
    for slot in range(parallel):
        cores.put(allowed[slot % len(allowed)] if parallel > 1 else None)

    def run_one(name: str, number: int) -> None:
        if stopping.is_set():
            return
        core = cores.get()
        try:
            trial = Trial(name, number, seed=results.seed, output=output, references=references, core=core)
            line = trial.run(EXPERIMENTS[name][0])
            results.add(line)
            _say(f"{name} {number}: {_outcome(line['passed'])} in {line['seconds']:.0f} s, {line['hits']}")
        except Stopped:
            _say(f"{name} {number}: stopped")
        finally:
            cores.put(core)

    with ThreadPoolExecutor(parallel) as pool:
        pending = [pool.submit(run_one, name, number) for name, number in wanted]
        try:
            for future in pending:
                future.result()
        except KeyboardInterrupt:
            stopping.set()
        except BaseException:  # a reference run failed; without it no trial can be compared
            stopping.set()
            raise


def _outcome(passed: bool | None) -> str:
    return {True: "passed", False: "FAILED", None: "not possible on this machine"}[passed]


def _trials(name: str, wanted: int | None) -> int:
    return EXPERIMENTS[name][1] if wanted is None else wanted


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(f"{name} ({count})" for name, (_, count) in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.endurance",
        description="Check that interrupted runs give the same result as uninterrupted ones, bit for bit.",
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help=f"experiments to run, with their trials: {known} (default: all)"
    )
    parser.add_argument("--trials", type=int, metavar="N", help="trials of each experiment")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("work_dirs/endurance"),
        help="folder of results, references and failed trials; finished trials in it are not repeated",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: 0)")
    parser.add_argument(
        "--parallel", type=int, default=1, metavar="N", help="trials at once, each on one core (default: 1)"
    )
    parser.add_argument("--summary", action="store_true", help="print the table of finished trials and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
