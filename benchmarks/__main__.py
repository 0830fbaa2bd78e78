"""`python -m benchmarks [NAME ...]`"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import choose_device, describe, moment, use_device
from benchmarks.measures import load_measures
from benchmarks.report import write_report
from benchmarks.result import Disagreement, Measure, Setting
from benchmarks.store import Store

HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 where the two sides of a measure disagree, else 0 whatever the figures are."""
    measures = load_measures()
    parser = _parser(list(measures))
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in measures]
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(measures)}")
    device = choose_device(given.device)
    use_device(device)
    setting = Setting(1 if given.quick else given.pairs, given.quick, device, _say)
    store = Store(None if given.quick else HERE / ".results.json", describe(device))
    wanted = given.names or list(measures)
    if not given.names and not given.resume:
        store.clear()
    output = given.output or (None if given.quick else HERE / "RESULTS.md")
    if given.names and not store.results and output is not None and given.output is None and output.exists():
        parser.error(
            "RESULTS.md holds all measures, and none of them was taken here: measure all, or give --output FILE"
        )
    failed = []
    for name in wanted:
        if given.resume and name in store.results:
            _say(f"{name}: taken {store.results[name].taken}")
        elif len(wanted) > 1 and output is not None and not given.quick:
            if _in_own_process(name, setting, output):
                failed.append(name)
        else:
            if not _take(name, measures[name], setting, store):
                failed.append(name)
            if output is not None:
                output.write_text(_report(store, list(measures)), encoding="utf-8")
    if failed:
        _say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _in_own_process(name: str, setting: Setting, output: Path) -> int:
    """So that none starts with the memory another one left, or ends them all; its exit status."""
    options = ["--pairs", setting.pairs, "--device", setting.device, "--output", output]
    return subprocess.call([sys.executable, "-m", "benchmarks", name, *map(str, options)])


def _take(name: str, measure: Measure, setting: Setting, store: Store) -> bool:
    _say(f"{name}:")
    try:
        result = measure(setting)
    except Disagreement as error:
        _say(f"{name}: FAILED: {error}")
        store.drop(name)
        return False
    result.taken = moment()
    store.put(result)
    return True


def _report(store: Store, order: list[str]) -> str:
    return write_report(store.machine, [store.results[name] for name in order if name in store.results])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser(names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Writes benchmarks/RESULTS.md.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"what to measure (default: all): {', '.join(names)}")
    parser.add_argument("--pairs", type=_count, default=5, help="timed runs of each side (default: 5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one pair: only shows that all of it runs")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured on this machine already")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the report (default: RESULTS.md; none if --quick)")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
