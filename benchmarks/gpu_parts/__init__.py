"""The parts of `python -m benchmarks.gpu`, one module each, in the order in which they run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from benchmarks.gpu_parts.common import Options, Record


@dataclass(frozen=True)
class Part:
    """A part runs in a process of its own.

    Attributes:
        seconds: It is stopped after this time. What it has recorded until then is kept.
    """

    name: str
    seconds: int

    def run(self, options: Options, record: Record) -> None:
        importlib.import_module(f"benchmarks.gpu_parts.{self.name}").run(options, record)


# 470 seconds in all, at most. The most important come first.
PARTS = (
    Part("losses", 110),
    Part("training", 130),
    Part("released", 50),
    Part("runs", 90),
    Part("ranks", 40),
    Part("evaluation", 25),
    Part("loader", 25),
)
