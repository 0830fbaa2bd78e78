"""Boundary IoU written as its definition: a mask for each class, eroded by OpenCV, as in boundary-iou-api."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

Mask = np.ndarray[Any, np.dtype[np.uint8]]
Map = np.ndarray[Any, np.dtype[Any]]


def plain_boundary(mask: Mask, radius: int) -> Mask:
    """Return a binary mask minus its erosion by `radius` squares of 3x3, with zeros around the image."""
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=radius)
    difference: Mask = mask - eroded[1:-1, 1:-1]
    return difference


def plain_counts(prediction: Map, labels: Map, classes: int, ratio: float, ignored: int = 255) -> Map:
    """Return (3, classes): the boundary pixels in both, in the labels and in the prediction."""
    radius = max(int(round(ratio * np.sqrt(labels.shape[0] ** 2 + labels.shape[1] ** 2))), 1)  # noqa: RUF046
    counts = np.zeros((3, classes), np.int64)
    for k in range(classes):
        masks = [((part == k) & (labels != ignored)).astype(np.uint8) for part in (labels, prediction)]
        true, predicted = (plain_boundary(mask, radius) for mask in masks)
        counts[:, k] = (true & predicted).sum(), true.sum(), predicted.sum()
    return counts
