"""Measure the peak memory of one side in its own process: `python -m benchmarks.memory MODULE WORKLOAD SIDE …`.

MODULE has `workload(name, side, setting)`, which prepares a side and returns the function to measure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.machine import use_device
from benchmarks.pairs import synchronize
from benchmarks.result import Row, Setting

ROOT = Path(__file__).parents[1]
SIDES = ("plain", "rmrkd")
_PAGE = 4096  # minimum result: with tiny sizes the process may need no new memory


def memory_rows(
    module: str, name: str, setting: Setting, *, goal: float | None, total: bool = False, runs: int = 1
) -> list[Row]:
    """Return a row with the peak memory in bytes; no row if the system cannot measure it.

    Args:
        total: Measure the peak of the process (on a GPU: of the allocator) instead of the increase during the call.
        runs: Number of calls, if the first call needs less memory than the next ones.
    """
    if setting.device == "cpu" and not Path("/proc/self/clear_refs").exists():
        setting.log("  peak memory is measured on Linux only")
        return []
    plain, ours = (_in_own_process(module, name, side, setting, total, runs) for side in SIDES)
    setting.log(f"  memory: {plain / 2**20:.0f} MiB and {ours / 2**20:.0f} MiB")
    label = "peak memory of the process" if total else "extra memory"
    return [Row(label, "B", [plain], [ours], goal=goal)]


def _in_own_process(module: str, name: str, side: str, setting: Setting, total: bool, runs: int) -> float:
    options = ["--device", setting.device, "--runs", str(runs)]
    options += ["--quick"] * setting.quick + ["--total"] * total
    command = [sys.executable, "-m", "benchmarks.memory", module, name, side, *options]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(out.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("name")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--total", action="store_true")
    options = parser.parse_args()
    setting = Setting(quick=options.quick, device=options.device)
    use_device(setting.device)
    prepare = importlib.import_module(options.module).workload
    if not options.total:
        prepare(options.name, options.side, replace(setting, quick=True))()  # warm-up: lazy imports and library handles
    call = prepare(options.name, options.side, setting)
    before = 0 if options.total else _reset_peak(setting.device)
    for _ in range(options.runs):
        call()
    synchronize(setting.device)
    print(json.dumps(max(_peak(setting.device) - before, _PAGE)))


def _reset_peak(device: str) -> int:
    """Reset the peak, and return the bytes in use."""
    if device == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
    return _status("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(key: str) -> int:
    """Return an entry of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
