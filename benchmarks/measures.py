"""All benchmarks by name, in the order in which they run."""

from __future__ import annotations

import importlib

from benchmarks.result import Measure

# Each module has `MEASURES`, a dict from name to benchmark; the slowest come last.
MODULES = (
    "startup",
    "transfer",
    "guarantees",
    "evaluation",
    "other_losses",
    "rmrkd",
    "data",
    "step_parts",
    "step",
)


def load_measures() -> dict[str, Measure]:
    measures: dict[str, Measure] = {}
    for module in MODULES:
        measures.update(importlib.import_module(f"benchmarks.{module}").MEASURES)
    return measures
