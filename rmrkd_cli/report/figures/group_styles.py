"""The colour, dashes and marker of each group, alike in all figures.

The colours are those of Okabe and Ito, changed to a contrast of at least 3 on white (`LIGHT`) and on the dark page
(`DARK`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rmrkd_cli.comparison.types import Group


@dataclass(frozen=True)
class Style:
    """The look of a group's lines and markers.

    Attributes:
        slot: Index into `LIGHT` and `DARK`.
        colour: On white.
        dash: Lengths of strokes and gaps in line widths; empty for a solid line.
        marker: A matplotlib marker.
    """

    slot: int
    colour: str
    dash: tuple[float, ...]
    marker: str


LIGHT = ("#5f6670", "#c24e00", "#0067a5", "#007a59", "#a8487f", "#8a6500", "#2b5f75")
DARK = ("#a9b1bb", "#ff9a5c", "#63b8f0", "#3ccfa4", "#ea9fc8", "#e8bb3f", "#9bd3e8")
LOSS, GAIN = LIGHT[1], LIGHT[2]
_DASHES: tuple[tuple[float, ...], ...] = ((1, 1.5), (5, 2), (), (7, 2, 1.5, 2), (3, 1.5), (9, 3), (2, 1, 2, 3))
_MARKERS = ("s", "^", "o", "D", "v", "P", "X")
_SLOT_OF_ROLE = {"teacher": 0, "baseline": 1, "distill": 2}


def styles_of(groups: Sequence[Group]) -> Mapping[str, Style]:
    """Return the style of each group by label. Teacher, baseline and first distilled student always look the same."""
    slots: dict[str, int] = {}
    for group in groups:
        slot = _SLOT_OF_ROLE.get(group.role or "")
        if slot is not None and slot not in slots.values():
            slots[group.label] = slot
    free = [slot for slot in (2, 1, 3, 4, 5, 6, 0) if slot not in slots.values()] or [3]
    for number, group in enumerate(group for group in groups if group.label not in slots):
        slots[group.label] = free[number % len(free)]
    return {group.label: style(slots[group.label]) for group in groups}


def style(slot: int) -> Style:
    """Return the style of a slot; slots beyond the last repeat."""
    slot %= len(LIGHT)
    return Style(slot, LIGHT[slot], _DASHES[slot], _MARKERS[slot])
