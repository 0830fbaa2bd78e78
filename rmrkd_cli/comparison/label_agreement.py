"""Whether results were counted against the same labels: a fingerprint names the images, not what their labels hold."""

from __future__ import annotations

from collections.abc import Sequence

from rmrkd_cli.results.record import Record
from rmrkd_cli.terminal.sanitize import visible


def truth_differs(first: Record, other: Record) -> str:
    """In which way the labels of two results under one protocol differ, in words; empty where nothing says so."""
    one, two = (record.get("per_image") for record in (first, other))
    if one is not None and two is not None:
        sides = (zip(side["names"], side["counts"], strict=True) for side in (one, two))
        for number, ((name, counts), (named, others)) in enumerate(zip(*sides, strict=True), 1):
            if name != named:
                return f"image {number} is `{visible(name)[:60]}` in one and `{visible(named)[:60]}` in the other"
            if _truth(counts) != _truth(others):
                return f"image `{visible(name)[:60]}` has other labels in one than in the other"
    before, after = first.get("matrix"), other.get("matrix")
    if before is not None and after is not None:
        for name, row, counts in zip(first["protocol"]["classes"], before, after, strict=True):
            if sum(row) != sum(counts):
                shown = visible(name)[:60]
                return f"`{shown}` has {sum(row)} pixels in the labels of one, {sum(counts)} in the other's"
    return ""


def _truth(flat: Sequence[int]) -> list[tuple[int, int]]:
    """(class, pixels of the truth) of one image's counts; a class may be there as a prediction alone."""
    return [(k, pixels) for k, pixels in zip(flat[::4], flat[2::4], strict=True) if pixels]
