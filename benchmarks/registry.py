"""All benchmarks by name, in the order in which they run."""

from __future__ import annotations

import importlib

from benchmarks.result import Benchmark

# Each module has `MEASURES`, a dict from name to benchmark; the slowest come last.
MODULES = (
    "startup",
    "transfer",
    "guarantees",
    "evaluation",
    "other_losses",
    "rmrkd",
    "data",
    "stored_teacher",
    "step_parts",
    "step",
)


def load_benchmarks() -> dict[str, Benchmark]:
    benchmarks: dict[str, Benchmark] = {}
    for module in MODULES:
        benchmarks.update(importlib.import_module(f"benchmarks.{module}").BENCHMARKS)
    return benchmarks
