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
    """Returns the exit status: 1 where a trial failed, 130 where the experiments were stopped."""
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
    """Trials in turn, or several at once on a core each."""
    references = References(output / "reference")
    cores: SimpleQueue[int | None] = SimpleQueue()
    allowed = sorted(os.sched_getaffinity(0))
    for slot in range(parallel):
        cores.put(allowed[slot % len(allowed)] if parallel > 1 else None)

    def one(name: str, number: int) -> None:
        if stopping.is_set():
            return
        core = cores.get()
        try:
            trial = Trial(name, number, seed=results.seed, output=output, references=references, core=core)
            line = trial.run(EXPERIMENTS[name][0])
            results.add(line)
            _say(f"{name} {number}: {_verdict(line['passed'])} in {line['seconds']:.0f} s, {line['hits']}")
        except Stopped:
            _say(f"{name} {number}: stopped")
        finally:
            cores.put(core)

    with ThreadPoolExecutor(parallel) as pool:
        pending = [pool.submit(one, name, number) for name, number in wanted]
        try:
            for future in pending:
                future.result()
        except KeyboardInterrupt:
            stopping.set()
        except BaseException:  # of a reference, without which no trial can be judged
            stopping.set()
            raise


def _verdict(passed: bool | None) -> str:
    return {True: "passed", False: "FAILED", None: "not possible here"}[passed]


def _trials(name: str, wanted: int | None) -> int:
    return EXPERIMENTS[name][1] if wanted is None else wanted


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(f"{name} ({count})" for name, (_, count) in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.endurance", description="Interrupted runs must end as uninterrupted ones, bit for bit."
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"experiments, all unless named (trials): {known}")
    parser.add_argument("--trials", type=int, metavar="N", help="trials of each experiment named")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("work_dirs/endurance"),
        help="results, references, and the directories of failed trials; trials found there are not made again",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument(
        "--parallel", type=int, default=1, metavar="N", help="trials at once, each on a core of its own"
    )
    parser.add_argument("--summary", action="store_true", help="only print the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
