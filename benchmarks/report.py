"""RESULTS.md: tables that read well in a terminal and on a forge."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence

from benchmarks.result import Result, Row

_WIDTH = 116
_INTRODUCTION = """\
Written by `uv run python -m benchmarks`. Both sides of a measure run in turns in one process (memory: each in a process
of its own); a time is the median of the pairs, a ratio the median of the pairs' ratios with the lowest and the highest
in brackets. A side that takes less than half a second is repeated for so long, and its mean counts."""
_KINDS = (
    (False, "Against plain or released code", "plain or released", "plain : rmrkd", "≥"),
    (True, "Against what is needed anyway", "needed anyway", "rmrkd : needed", "≤"),
)


def write_report(machine: dict[str, str], results: Sequence[Result]) -> str:
    """The whole page."""
    parts = ["# Benchmarks", _INTRODUCTION, "\n".join(f"- {name}: {value}" for name, value in machine.items())]
    for bound, title, other, ratio, sign in _KINDS:
        rows = [_cells(result, row, sign) for result in results for row in result.rows if row.bound == bound]
        if rows:
            header = ("measure", other, "rmrkd", ratio, "goal", "met")
            parts += [f"## {title}", table(header, rows)]
    parts += ["## What is compared, and how it was checked", *map(_paragraph, results)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns of even width, figures set to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = [
        "-" * width if column in (0, len(header) - 1) else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join("| " + " | ".join(_aligned(line, widths)) + " |" for line in (header, rule, *lines[1:]))


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    last = len(line) - 1
    return [
        cell.ljust(width) if column in (0, last) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def _cells(result: Result, row: Row, sign: str) -> tuple[str, ...]:
    plain, ours = (amount(statistics.median(side), row.unit) for side in (row.plain, row.ours))
    goal = "–" if row.goal is None else f"{sign} {row.goal:g}"
    met = {None: "–", True: "yes", False: "**no**"}[row.met]
    return f"{result.name}: {row.label}", plain, ours, ratio_range(row.ratios), goal, met


def ratio_range(ratios: Sequence[float]) -> str:
    """The median, and the lowest and highest in brackets."""
    middle = figure(statistics.median(ratios))
    if len(ratios) == 1:
        return middle
    return f"{middle} ({figure(min(ratios))} – {figure(max(ratios))})"


def figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def amount(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
    return f"{figure(value)} s" if value >= 1 else f"{figure(1e3 * value)} ms"


def _paragraph(result: Result) -> str:
    pairs = max(len(row.ratios) for row in result.rows)
    counted = "1 pair" if pairs == 1 else f"{pairs} pairs"
    sentences = [result.what, f"Check: {result.checked}", *result.figures, f"Taken {result.taken}, {counted}"]
    text = f"**{result.name}** – " + " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
