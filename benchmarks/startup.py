"""Startup time of `rmrkd`, against an empty Typer app."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.pairs import check_and_time
from benchmarks.processes import output, rmrkd
from benchmarks.result import Benchmark, Disagreement, Result, Row, Setting
from rmrkd_cli.presets.loader import preset_names

_EMPTY = '''
import typer

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Does nothing."""


app()
'''
_MIN_PAIRS = 7
MAX_RATIOS = {"--help": 1.3, "presets": 1.8}


def benchmark_startup(setting: Setting) -> Result:
    if not setting.quick:
        setting = replace(setting, pairs=max(setting.pairs, _MIN_PAIRS))
    rows, sentences = [], []
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(_EMPTY)
        for argument, max_ratio in MAX_RATIOS.items():
            checked, (theirs, ours) = check_and_time(
                partial(output, sys.executable, empty, "--help"),
                partial(output, rmrkd(), argument),
                _check_output(argument),
                setting,
            )
            sentences.append(checked)
            rows.append(Row(f"rmrkd {argument}", "s", theirs, ours, bound=True, goal=max_ratio))
            rows.append(Row(f"rmrkd {argument}, fastest", "s", [min(theirs)], [min(ours)], bound=True, goal=max_ratio))
    what = "whole processes, against `--help` of a Typer app with one empty command, by the same interpreter"
    return Result("startup", what, "; ".join(sentences), rows)


def _check_output(argument: str) -> Callable[[str, str], str]:
    """Return a check that each process printed its own output."""
    expected = {"--help": ["train", "eval", "transfer"], "presets": preset_names()}[argument]

    def check(theirs: str, ours: str) -> str:
        missing = [word for word in expected if word not in ours]
        if missing or "Does nothing" not in theirs:
            raise Disagreement(f"`rmrkd {argument}` does not print {', '.join(missing)}")
        return f"`rmrkd {argument}` prints all {len(expected)} expected words"

    return check


BENCHMARKS: dict[str, Benchmark] = {"startup": benchmark_startup}
