"""How groups are told apart, on the page and in its pictures: colour, dashes and marker together.

The colours are Okabe and Ito's, darkened or lightened to stand out from their ground by 3:1 at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rmrkd_cli.comparison.types import Group


@dataclass(frozen=True)
class Style:
    """Of a group's lines and points.

    Attributes:
        slot: Of the page's colours, `--g0`, `--g1`, …
        colour: On white.
        dash: Lengths of strokes and gaps, in units of the line's width; empty for a solid line.
        marker: As matplotlib calls it.
    """

    slot: int
    colour: str
    dash: tuple[float, ...]
    marker: str


LIGHT = ("#5f6670", "#c24e00", "#0067a5", "#007a59", "#a8487f", "#8a6500", "#2b5f75")
DARK = ("#a9b1bb", "#ff9a5c", "#63b8f0", "#3ccfa4", "#ea9fc8", "#e8bb3f", "#9bd3e8")
_DASHES: tuple[tuple[float, ...], ...] = ((1, 1.5), (5, 2), (), (7, 2, 1.5, 2), (3, 1.5), (9, 3), (2, 1, 2, 3))
_MARKERS = ("s", "^", "o", "D", "v", "P", "X")
_TEACHER, _BASELINE, _DISTILL = 0, 1, 2


def styles_of(groups: Sequence[Group]) -> Mapping[str, Style]:
    """By label; teacher, baseline and the first distilled student look the same in every report."""
    wanted = {"teacher": _TEACHER, "baseline": _BASELINE, "distill": _DISTILL}
    slots: dict[str, int] = {}
    for group in groups:
        slot = wanted.get(group.role or "")
        if slot is not None and slot not in slots.values():
            slots[group.label] = slot
    free = [slot for slot in (2, 1, 3, 4, 5, 6, 0) if slot not in slots.values()] or [3]
    for number, group in enumerate(group for group in groups if group.label not in slots):
        slots[group.label] = free[number % len(free)]
    return {group.label: style(slots[group.label]) for group in groups}


def style(slot: int) -> Style:
    """Of one of the slots; they repeat."""
    slot %= len(LIGHT)
    return Style(slot, LIGHT[slot], _DASHES[slot], _MARKERS[slot])
