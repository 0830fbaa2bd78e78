"""Confusion matrices as shares, and what is mistaken most."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.comparison.types import Group

MOST_NUMBERED = 24  # classes, up to which every cell shows its figure
_LARGEST = 10

Matrix = NDArray[np.float64]


def has_matrix(group: Group) -> bool:
    """Whether its counts are of as many classes as it has figures of; a stranger's record may hold others."""
    count = len(group.iou)
    return group.matrix is not None and len(group.matrix) == count and all(len(row) == count for row in group.matrix)


def shares(matrix: Sequence[Sequence[int]]) -> Matrix:
    """Of each row's pixels, 0..1; NaN in the rows of classes that never occur."""
    counts = np.array(matrix, np.float64)
    total = counts.sum(1, keepdims=True)
    found: Matrix = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    return found


def largest(matrix: Sequence[Sequence[int]], count: int = _LARGEST) -> list[tuple[int, int]]:
    """(truth, prediction) of the wrong cells with most pixels."""
    wrong = np.array(matrix, np.float64)
    np.fill_diagonal(wrong, 0)
    flat = wrong.ravel()
    found = heapq.nlargest(count, np.flatnonzero(flat).tolist(), key=lambda place: (flat[place], -place))
    return [divmod(place, len(wrong)) for place in found]
