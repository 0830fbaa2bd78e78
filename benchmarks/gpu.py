"""`python -m benchmarks.gpu`: check and time rmrkd on one GPU in at most 8 minutes, and write GPU.md."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arguments import say
from benchmarks.gpu_parts import PARTS, Part
from benchmarks.gpu_parts.common import ROOT, Options
from benchmarks.gpu_parts.page import PartResult, write_page

HERE = Path(__file__).parent
PAGE = HERE / "GPU.md"
SECONDS = 480


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if a part failed or was stopped, else 0."""
    given = _parse(arguments)
    if given.part is not None:
        _run_part(given.part, Options(given.device, given.toy, given.folder))
        return 0
    deadline = time.monotonic() + given.seconds
    folder = given.folder or Path(tempfile.mkdtemp(prefix="rmrkd-gpu-"))
    folder.mkdir(parents=True, exist_ok=True)
    options = Options(given.device, given.toy, folder)
    results: list[PartResult] = []
    machine = _describe(options)
    try:
        for part in (part for part in PARTS if part.name in given.parts):
            say(f"{part.name}:")
            results.append(_run(part, options, deadline))
            say(f"  {results[-1].ending}, {results[-1].seconds:.0f} s, {len(results[-1].rows)} rows")
            given.output.write_text(write_page(machine, results, options), encoding="utf-8")
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    return int(any(result.ending != "finished" for result in results))


def _run(part: Part, options: Options, deadline: float) -> PartResult:
    """Run a part until it ends, or its time or the time of all parts is over."""
    rows = options.folder / f"{part.name}.jsonl"
    rows.unlink(missing_ok=True)
    started = time.monotonic()
    limit = min(part.seconds, deadline - started)
    if limit <= 0:
        ending = "not started: no time was left"
    elif options.toy:
        ending = _run_here(part, options)
    else:
        ending = _wait(_command(part, options), limit)
    read = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return PartResult(part.name, ending, time.monotonic() - started, read)


def _command(part: Part, options: Options) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", part.name, "--folder", str(options.folder)]
    return [*command, "--device", options.device]


def _run_here(part: Part, options: Options) -> str:
    """Run a part in this process, which saves an import of torch; return how it ended."""
    try:
        _run_part(part.name, options)
    except Exception as error:
        traceback.print_exc()
        return f"failed: {type(error).__name__}: {error}"
    return "finished"


def _wait(command: list[str], limit: float) -> str:
    """Run a command in its own process group, and kill the group when the time is over; return how it ended."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return f"stopped at its limit of {limit:.0f} s"
    finally:
        _kill_group(process)
    if process.returncode == 0:
        return "finished"
    lines = [line for line in errors.splitlines() if line.strip()]
    say("\n".join(f"  {line}" for line in lines[-15:]))
    return f"failed: {lines[-1][:300] if lines else f'exit code {process.returncode}'}"


def _kill_group(process: subprocess.Popen[str]) -> None:
    """End the processes that a part has started and left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _run_part(name: str, options: Options) -> None:
    part = next(part for part in PARTS if part.name == name)
    with (options.folder / f"{name}.jsonl").open("a", encoding="utf-8") as stream:

        def record(row: dict[str, Any]) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()

        part.run(options, record)


def _describe(options: Options) -> dict[str, str]:
    """Return the machine in words, from another process: this one must leave the GPU alone."""
    script = (
        "import json; from benchmarks.machine import *; "
        f"print(json.dumps(describe_machine({options.device!r}) | {{'measured': date_and_commit()}}))"
    )
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    machine: dict[str, str] = json.loads(out.splitlines()[-1])
    machine["measured on"] = f"{options.device}{', toy sizes' * options.toy}"
    return machine


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, only to check that all parts run")
    parser.add_argument("--parts", default=",".join(names), help=f"parts to run (default: {','.join(names)})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"time for all parts (default: {SECONDS})")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the page here (default: benchmarks/GPU.md)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the files of the parts here")
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    given.parts = given.parts.split(",")
    if unknown := [name for name in given.parts if name not in names]:
        parser.error(f"unknown part {', '.join(unknown)}; available: {', '.join(names)}")
    measures_gpu = given.device == "cuda" and not given.toy
    if given.part is None and not measures_gpu and (given.output is None or given.output.resolve() == PAGE):
        parser.error("GPU.md is for full sizes on a GPU: pass --output FILE")
    given.output = given.output or PAGE
    return given


if __name__ == "__main__":
    sys.exit(main())
