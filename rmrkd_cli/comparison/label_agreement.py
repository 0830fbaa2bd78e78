"""Whether results were counted against the same labels: a fingerprint names the images, not what their labels hold."""

from __future__ import annotations

from collections.abc import Sequence

from rmrkd_cli.results.record import Record
from rmrkd_cli.terminal.sanitize import escape_control


def truth_differs(first: Record, other: Record) -> str:
    """In which way the labels of two results under one protocol differ, in words; empty where nothing says so."""
    one, two = (record.get("per_image") for record in (first, other))
    if one is not None and two is not None:
        sides = (zip(side["names"], side["counts"], strict=True) for side in (one, two))
        for number, ((name, counts), (named, others)) in enumerate(zip(*sides, strict=True), 1):
            if name != named:
                one, other_name = escape_control(name)[:60], escape_control(named)[:60]
                return f"image {number} is `{one}` in one and `{other_name}` in the other"
            if _truth(counts) != _truth(others):
                return f"image `{escape_control(name)[:60]}` has other labels in one than in the other"
    before, after = first.get("matrix"), other.get("matrix")
    if before is not None and after is not None:
        for name, row, counts in zip(first["protocol"]["classes"], before, after, strict=True):
            if sum(row) != sum(counts):
                shown = escape_control(name)[:60]
                return f"`{shown}` has {sum(row)} pixels in the labels of one, {sum(counts)} in the other's"
    return ""


def _truth(flat: Sequence[int]) -> list[tuple[int, int]]:
    """(class, pixels of the truth) of one image's counts; a class may be there as a prediction alone."""
    return [(k, pixels) for k, pixels in zip(flat[::4], flat[2::4], strict=True) if pixels]
