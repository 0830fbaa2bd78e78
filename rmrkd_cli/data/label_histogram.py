"""Count the values of a label map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22  # pixels at a time: OpenCV counts in float32, which is exact up to 2^24


def count_values(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the pixels of each value (256,).

    `np.bincount` would take 8 bytes of memory per pixel.
    """
    import cv2

    flat, counts = labels.reshape(-1), np.zeros(256, np.int64)
    for start in range(0, flat.size, _BLOCK):
        block = cv2.calcHist([flat[start : start + _BLOCK]], [0], None, [256], [0, 256])
        counts += block.reshape(-1).astype(np.int64)
    return counts
