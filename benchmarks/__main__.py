"""`python -m benchmarks [NAME ...]`: run the benchmarks and write RESULTS.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.arguments import say
from benchmarks.machine import choose_device, date_and_commit, describe_machine, use_device
from benchmarks.registry import load_benchmarks
from benchmarks.report import write_report
from benchmarks.result import Benchmark, Disagreement, Setting
from benchmarks.store import Store

HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 1 if the two sides of a benchmark give different results, else 0."""
    benchmarks = load_benchmarks()
    parser = _parser(list(benchmarks))
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in benchmarks]
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; available: {', '.join(benchmarks)}")
    device = choose_device(options.device)
    use_device(device)
    setting = Setting(1 if options.quick else options.pairs, options.quick, device, say)
    store = Store(None if options.quick else HERE / ".results.json", describe_machine(device))
    names = options.names or list(benchmarks)
    if not options.names and not options.resume:
        store.clear()
    output = options.output or (None if options.quick else HERE / "RESULTS.md")
    if options.names and not store.results and output is not None and options.output is None and output.exists():
        parser.error("RESULTS.md has no result of this machine: run all benchmarks, or pass --output FILE")
    failed = []
    for name in names:
        if options.resume and name in store.results:
            say(f"{name}: measured {store.results[name].taken}")
        elif len(names) > 1 and output is not None and not options.quick:
            if _in_own_process(name, setting, output):
                failed.append(name)
        else:
            if not _run(name, benchmarks[name], setting, store):
                failed.append(name)
            if output is not None:
                output.write_text(_report(store, list(benchmarks)), encoding="utf-8")
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _in_own_process(name: str, setting: Setting, output: Path) -> int:
    """Run a benchmark in its own process and return the exit code: memory and crashes do not affect the others."""
    options = ["--pairs", setting.pairs, "--device", setting.device, "--output", output]
    return subprocess.call([sys.executable, "-m", "benchmarks", name, *map(str, options)])


def _run(name: str, measure: Benchmark, setting: Setting, store: Store) -> bool:
    say(f"{name}:")
    try:
        result = measure(setting)
    except Disagreement as error:
        say(f"{name}: FAILED: {error}")
        store.drop(name)
        return False
    result.taken = date_and_commit()
    store.put(result)
    return True


def _report(store: Store, order: list[str]) -> str:
    return write_report(store.machine, [store.results[name] for name in order if name in store.results])


def _parser(names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run the benchmarks and write benchmarks/RESULTS.md."
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help=f"benchmarks to run (default: all): {', '.join(names)}"
    )
    parser.add_argument("--pairs", type=_count, default=5, help="timed runs of each side (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and one pair, only to check that every benchmark runs"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--resume", action="store_true", help="skip benchmarks that have a result of this machine")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report here (default: RESULTS.md; none with --quick)"
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
