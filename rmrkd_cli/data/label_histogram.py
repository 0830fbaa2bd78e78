"""How often each value of a label map occurs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22  # pixels at a time; OpenCV gives counts as float32, exact up to 2^24


def value_counts(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256,): pixels of each value. `np.bincount` would take eight bytes a pixel for it."""
    import cv2

    flat, counts = labels.reshape(-1), np.zeros(256, np.int64)
    for start in range(0, flat.size, _BLOCK):
        block = cv2.calcHist([flat[start : start + _BLOCK]], [0], None, [256], [0, 256])
        counts += block.reshape(-1).astype(np.int64)
    return counts
