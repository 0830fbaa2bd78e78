"""Decode images with OpenCV, on one thread and without its own messages."""

from __future__ import annotations

from typing import Any

import numpy as np


def decode(data: bytes, flags: int) -> Any:
    """Return the decoded array, or None if the data is damaged or of an unknown form.

    `imread` would fill the missing part of a truncated JPEG; this refuses it.

    Args:
        flags: `cv2.IMREAD_…`.

    Raises:
        ValueError: When OpenCV itself raises an error.
    """
    import cv2

    cv2.setNumThreads(0)  # the loader processes are the parallelism
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # an unknown TIFF tag is no news for users
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(" ".join(str(error.err).split())) from error
