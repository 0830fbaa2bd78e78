"""Write RESULTS.md."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence

from benchmarks.result import Result, Row

_WIDTH = 116
_INTRODUCTION = """\
Written by `uv run python -m benchmarks`. The two sides of a benchmark alternate in one process (memory: one process per
side). A time is the median of the pairs. A ratio is the median of the pairs' ratios, with the lowest and the highest in
brackets. A side that takes less than half a second is repeated for half a second, and its mean is used."""
_KINDS = (
    (False, "Against plain or released code", "plain or released", "plain : rmrkd", "≥"),
    (True, "Against a lower bound", "lower bound", "rmrkd : bound", "≤"),
)


def write_report(machine: dict[str, str], results: Sequence[Result]) -> str:
    """Return the whole page as Markdown."""
    parts = ["# Benchmarks", _INTRODUCTION, "\n".join(f"- {name}: {value}" for name, value in machine.items())]
    for bound, title, other, ratio, sign in _KINDS:
        rows = [_cells(result, row, sign) for result in results for row in result.rows if row.bound == bound]
        if rows:
            header = ("measure", other, "rmrkd", ratio, "goal", "met")
            parts += [f"## {title}", table(header, rows)]
    parts += ["## What is compared, and how it was checked", *map(_paragraph, results)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with columns of equal width and right-aligned numbers."""
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
    meets_goal = {None: "–", True: "yes", False: "**no**"}[row.meets_goal]
    return f"{result.name}: {row.label}", plain, ours, ratio_range(row.ratios), goal, meets_goal


def ratio_range(ratios: Sequence[float]) -> str:
    """Return the median, with the lowest and the highest in brackets."""
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
