"""The check that two results were evaluated on the same labels; the protocol's fingerprint covers only image names."""

from __future__ import annotations

from collections.abc import Sequence

from rmrkd_cli.results.record import Record
from rmrkd_cli.terminal.text import shorten


def label_difference(first: Record, second: Record) -> str:
    """Return how the labels of two results of one protocol differ; empty where no difference is known."""
    images, other_images = first.get("per_image"), second.get("per_image")
    if images is not None and other_images is not None:
        sides = (zip(side["names"], side["counts"], strict=True) for side in (images, other_images))
        for number, ((name, counts), (other_name, other_counts)) in enumerate(zip(*sides, strict=True), 1):
            if name != other_name:
                return f"image {number} is `{shorten(name)}` in one and `{shorten(other_name)}` in the other"
            if _true_pixels(counts) != _true_pixels(other_counts):
                return f"image `{shorten(name)}` has different labels in the two"
    matrix, other_matrix = first.get("matrix"), second.get("matrix")
    if matrix is not None and other_matrix is not None:
        for name, row, other_row in zip(first["protocol"]["classes"], matrix, other_matrix, strict=True):
            if sum(row) != sum(other_row):
                return (
                    f"class `{shorten(name)}` has {sum(row)} pixels in the labels of one, {sum(other_row)} in the other"
                )
    return ""


def _true_pixels(flat: Sequence[int]) -> list[tuple[int, int]]:
    """Return (class, pixels in the labels) from one image's counts, without classes that are only predicted."""
    return [(k, pixels) for k, pixels in zip(flat[::4], flat[2::4], strict=True) if pixels]
