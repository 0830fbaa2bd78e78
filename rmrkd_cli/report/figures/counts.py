"""Confusion matrices as shares, and their largest confusions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.comparison.types import Group

MAX_NUMBERED = 24  # classes up to which every cell shows a number
_MAX_CONFUSIONS = 10

Matrix = NDArray[np.float64]


def has_matrix(group: Group) -> bool:
    """Return whether the group has a square matrix of its classes; a result file may hold another."""
    count = len(group.iou)
    return group.matrix is not None and len(group.matrix) == count and all(len(row) == count for row in group.matrix)


def shares(matrix: Sequence[Sequence[int]]) -> Matrix:
    """Return each cell's share of its row, 0..1; NaN in the rows of classes that never occur."""
    counts = np.array(matrix, np.float64)
    total = counts.sum(1, keepdims=True)
    share: Matrix = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    return share


def largest_confusions(matrix: Sequence[Sequence[int]], count: int = _MAX_CONFUSIONS) -> list[tuple[int, int]]:
    """Return (truth, prediction) of the cells off the diagonal with the most pixels, largest first."""
    wrong = np.array(matrix, np.float64)
    np.fill_diagonal(wrong, 0)
    flat = wrong.ravel()
    cells = heapq.nlargest(count, np.flatnonzero(flat).tolist(), key=lambda cell: (flat[cell], -cell))
    return [divmod(cell, len(wrong)) for cell in cells]
