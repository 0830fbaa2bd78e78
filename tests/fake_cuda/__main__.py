"""`python -m tests.fake_cuda`: run training steps on a pretended GPU, and print where the host waits for it."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fake_cuda.libraries import compile_libraries, missing_requirement

if TYPE_CHECKING:
    from tests.fake_cuda.step import Job

ROOT = Path(__file__).parents[2]
_PRELOADED = "RMRKD_FAKE_CUDA"


def main() -> int:
    """Return the exit code: 1 if a step failed, 2 if this machine cannot run one."""
    if os.environ.get(_PRELOADED) != "1":
        return _restart()
    options = _parser().parse_args()
    warnings.filterwarnings("ignore")
    from tests.fake_cuda.events import replace_events
    from tests.fake_cuda.pretend import pretend_cuda

    pretend_cuda()
    replace_events()
    failed = False
    for job in _jobs(options):
        started = time.process_time()
        result = run(job) | {"seconds": time.process_time() - started}
        failed |= result["error"] is not None
        print(json.dumps(result) if options.json else describe(result), flush=True)
    return int(failed)


def run(job: Job) -> dict[str, Any]:
    """Run a step and return its report, or the error with the lines of this package that led to it."""
    from tests.fake_cuda.jobs import run_job

    try:
        return {"job": job.name, "error": None, **vars(run_job(job))}
    except Exception as error:
        frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        own = [frame.removeprefix(f"{ROOT}/") for frame in frames if frame.startswith(f"{ROOT}/rmrkd_cli")]
        text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return {"job": job.name, "error": f"{text} at {', '.join(reversed(own[-4:]))}; innermost {frames[-1]}"}


def describe(result: dict[str, Any]) -> str:
    """Return the lines to print about a step."""
    head = f"{result['job']} ({result['seconds']:.0f} s)"
    if result["error"] is not None:
        return f"{head}: FAILED {result['error']}"
    parts = ("waits", "late_waits", "blocking_copies", "kernels")
    totals = ", ".join(f"{sum(result[part].values())} {part.replace('_', ' ')}" for part in parts)
    lines = [
        f"  {part} {count}x {place}" for part in parts[:-1] for place, count in Counter(result[part]).most_common()
    ]
    return "\n".join([f"{head}: {totals}", *lines])


def _restart() -> int:
    """Start this command anew with the libraries preloaded."""
    missing = missing_requirement()
    if missing is not None:
        print(f"cannot pretend a GPU: {missing}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="rmrkd-fake-cuda-") as folder:
        environment = compile_libraries(Path(folder)) | {_PRELOADED: "1"}
        command = [sys.executable, "-m", "tests.fake_cuda", *sys.argv[1:]]
        return subprocess.call(command, env=environment, cwd=ROOT)


def _jobs(options: argparse.Namespace) -> list[Job]:
    from rmrkd_cli.presets.loader import preset_names
    from rmrkd_cli.presets.methods import method_names
    from tests.fake_cuda.step import Job

    if options.jobs:
        return [Job(**each) for each in json.load(sys.stdin)]
    presets = preset_names() if options.preset == "all" else options.preset.split(",")
    methods = method_names() if options.method == "all" else options.method.split(",") if options.method else [None]
    return [
        Job(
            preset,
            method,
            options.role,
            amp,
            options.ranks,
            options.deterministic,
            options.plant,
            options.set,
            options.what,
        )
        for preset, method, amp in itertools.product(presets, methods, options.amp.split(","))
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fake_cuda", description=__doc__)
    parser.add_argument(
        "--what", default="step", help="step, evaluate, slide, predict, weights, resume, latency, doctor"
    )
    parser.add_argument("--preset", default="demo", help="preset names, separated by commas, or `all` (default: demo)")
    parser.add_argument("--method", help="method names, or `all` (default: the preset's losses)")
    parser.add_argument("--role", choices=("teacher", "baseline", "distill"), default="distill")
    parser.add_argument("--amp", default="off", help="off, bf16, fp16, or several (default: off)")
    parser.add_argument("--ranks", type=int, default=1, help="ranks of a fake process group (default: 1)")
    parser.add_argument("--deterministic", action="store_true", help="as `rmrkd train --deterministic`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `rmrkd train --set`")
    parser.add_argument("--plant", action="store_true", help="add a CPU tensor to a loss: the step must fail")
    parser.add_argument("--json", action="store_true", help="print one JSON document a step")
    parser.add_argument("--jobs", action="store_true", help="read the steps from stdin, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
