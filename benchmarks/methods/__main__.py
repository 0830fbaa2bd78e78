"""`python -m benchmarks.methods`"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.arguments import read_count, read_names, read_seeds, say
from benchmarks.machine import choose_device, date_and_commit, describe_machine, use_device
from benchmarks.methods.bench import Bench
from benchmarks.methods.costs import format_ratio, write_costs
from benchmarks.methods.runs import Conditions
from benchmarks.result import Setting
from benchmarks.store import Store
from benchmarks.training import start
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.methods import ALIASES, load_method, method_names

HERE = Path(__file__).parents[1]
REPORT, PRESET = HERE / "METHODS.md", "demo"
_QUICK = (
    "schedule.iters=2", "teacher.schedule.iters=2", "schedule.batch_size=2", "schedule.crop=[64, 64]",
    "schedule.workers=0", "schedule.log_interval=1",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"
_QUICK_METHODS = ("kd", "rmrkd")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 where something failed, else 0 whichever method wins."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        methods = tuple(dict.fromkeys(ALIASES.get(name, name) for name in given.methods or _all(given.quick)))
        for name in methods:
            load_method(name)
        with tempfile.TemporaryDirectory() as thrown_away:
            folder = given.work_dir or (Path(thrown_away) if given.quick else HERE / ".methods")
            return _bench(given, methods, folder.absolute(), arguments)
    except RmrkdError as error:
        parser.error(error.message)
    except KeyboardInterrupt:
        say("stopped; the same command resumes")
        return 130


def _bench(given: argparse.Namespace, methods: tuple[str, ...], folder: Path, arguments: Sequence[str]) -> int:
    device = choose_device(given.device)
    use_device(device)
    _share_processor(given.jobs)
    folder.mkdir(parents=True, exist_ok=True)
    preset = str(Path(given.preset).absolute()) if Path(given.preset).is_file() else given.preset
    settings = (*(_QUICK if given.quick else ()), *given.settings)
    seeds = given.seeds or ((0,) if given.quick else (0, 1, 2))
    seconds = given.time or (0.2 if given.quick else 20.0)
    conditions = Conditions(preset, seeds, methods, settings, seconds, folder, device)
    setting = Setting(1 if given.quick else given.rounds, given.quick, device, say)
    output = given.output or (REPORT if preset == PRESET and not settings else folder / REPORT.name)
    command = shlex.join(["python", "-m", "benchmarks.methods", *arguments])
    what = f"preset `{preset}`" + (f" with {', '.join(settings)}" if settings else "")
    kept = RESULTS if preset == PRESET and not settings else folder / "results"
    results = (given.results or kept).absolute()
    results.mkdir(parents=True, exist_ok=True)
    store = Store(results / "measured.json", {**describe_machine(device), "networks": what}, keep=True)
    bench = Bench(conditions, setting, store, results, output, command, date_and_commit(), given.trials, given.jobs)
    failed = bench.run(start)
    if given.write_costs:
        write_costs(bench.costs())
    else:
        for name, cost in bench.costs().items():
            print(f"presets/methods/{name}.yaml: cost: {format_ratio(cost)}")
    say(f"written: {output}")
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _share_processor(jobs: int) -> None:
    """Give this process, which times steps, and each training its share of the threads."""
    if jobs > 1:
        threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs))))
        torch.set_num_threads(threads)


def _all(quick: bool) -> Sequence[str]:
    return _QUICK_METHODS if quick else method_names()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description="Trains every method under the same conditions and writes benchmarks/METHODS.md. A training of "
        "which the results folder has a record is not run again; others continue in the work directory.",
    )
    parser.add_argument("--preset", default=PRESET, help="a preset's name or file (default: demo)")
    parser.add_argument("--methods", type=read_names, metavar="NAME,NAME", help="default: all of `rmrkd methods`")
    parser.add_argument("--seeds", type=read_seeds, metavar="N,N", help="default: 0,1,2")
    parser.add_argument("--time", type=_positive, metavar="S", help="seconds of computing at equal time (default: 20)")
    parser.add_argument(
        "--trials",
        type=_trials,
        default=0,
        metavar="N",
        help="train each method also with the settings that `rmrkd tune` chooses in N trials (default: no tuning)",
    )
    parser.add_argument("--rounds", type=read_count, default=5, metavar="N", help="timed rounds (default: 5)")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY.PATH=VALUE", help="of every training"
    )
    parser.add_argument(
        "--jobs", type=read_count, default=1, metavar="N", help="trainings at the same time (default: 1)"
    )
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="default: benchmarks/.methods")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="records of what is finished (default: benchmarks/methods/results; of another preset or other "
        "settings, in the work directory)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the report (default: benchmarks/METHODS.md; of another or changed preset, in the work directory)",
    )
    parser.add_argument("--write-costs", action="store_true", help="put the cost of a step into each method's recipe")
    parser.add_argument("--quick", action="store_true", help="two methods, one seed, two steps: shows that it runs")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _trials(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError("must be at least 2")
    return value


if __name__ == "__main__":
    sys.exit(main())
