"""Pixels near the boundary of their class, from which the boundary IoU is computed.

Source: Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
CVPR 2021, and `mask_to_boundary` of bowenc0221/boundary-iou-api, commit 37d2558. There, the boundary of a mask is the
mask minus its erosion by d squares of 3x3 pixels, in an image with zeros around it. d squares of 3x3 reach as far as
one square of side 2d + 1. So a pixel is in the boundary of its class where that square holds another class or a
position outside the image. One pass over the map of classes finds these pixels for all classes at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses._functional import window_max


def boundary_radius(height: int, width: int, ratio: float) -> int:
    """Return d, the width of the boundary in pixels: a share of the image's diagonal, rounded, and at least 1."""
    return max(1, round(ratio * math.sqrt(height**2 + width**2)))


def boundary_pixels(classes: Tensor, radius: int, outside: int) -> Tensor:
    """Return where a map of classes is within `radius` pixels of another class or of the image's border, (H, W) bool.

    Args:
        classes: Class indices (H, W), integers.
        radius: d, at least 1; the distance counts diagonal steps as one.
        outside: An integer that no class has.
    """
    framed = F.pad(classes, (1, 1, 1, 1), value=outside)
    corner = framed[:-1, :-1]
    unequal = (corner != framed[:-1, 1:]) | (corner != framed[1:, :-1]) | (corner != framed[1:, 1:])
    # The square of side 2d + 1 holds one class only if all squares of 2x2 pixels in it do.
    changes = F.pad(unequal.to(torch.uint8), (radius - 1,) * 4)
    return window_max(window_max(changes, 2 * radius, dim=0), 2 * radius, dim=1).bool()


def boundary_counts(prediction: Tensor, labels: Tensor, num_classes: int, ignore_index: int, ratio: float) -> Tensor:
    """Return the boundary pixels of each class of one image, (3, K) int64: in both, in the labels, in the prediction.

    A pixel is in both if it has one class in labels and prediction and is in the boundary of both. Boundary IoU is both
    / (labels + prediction - both).

    Ignored pixels count nowhere. Where they begin, the image ends, for labels and prediction alike: a class has a
    boundary there, as at the border of the image. So the prediction at ignored pixels changes no count. The released
    panoptic evaluation leaves such pixels out of the union too, but there the prediction keeps its own edges at them.

    Args:
        prediction: Class indices (H, W), 0..K-1 except at ignored pixels.
        labels: Class indices (H, W), or `ignore_index`.
        ratio: Width of the boundary as a share of the image's diagonal; see `boundary_radius`.
    """
    ignored = labels == ignore_index
    truth, guess = (part.to(torch.int32).masked_fill(ignored, num_classes) for part in (labels, prediction))
    height, width = truth.shape
    radius = boundary_radius(height, width, ratio)
    in_truth, in_guess = (boundary_pixels(part, radius, num_classes) for part in (truth, guess))
    in_both = in_truth & in_guess & (truth == guess)
    pairs = ((in_both, truth), (in_truth, truth), (in_guess, guess))
    chosen = torch.stack([part.masked_fill(~inside, num_classes) for inside, part in pairs])  # K: not counted
    rows = torch.arange(3, dtype=chosen.dtype, device=chosen.device)[:, None, None] * (num_classes + 1)
    counts = torch.bincount((chosen + rows).flatten(), minlength=3 * (num_classes + 1))
    return counts.view(3, num_classes + 1)[:, :-1]
