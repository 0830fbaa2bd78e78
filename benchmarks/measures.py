"""Every measure by name, in the order they run."""

from __future__ import annotations

import importlib

from benchmarks.result import Measure

# Each module holds `MEASURES`, name -> measure; the slowest come last.
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
    found: dict[str, Measure] = {}
    for module in MODULES:
        found.update(importlib.import_module(f"benchmarks.{module}").MEASURES)
    return found
