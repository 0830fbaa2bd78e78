"""BPKD: boundary-privileged knowledge distillation."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import kl_with_gradient, one_hot_masks, resize_labels, window_max
from rmrkd_cli.losses._relations import ValueAndGradient, with_gradient
from rmrkd_cli.presets.fields import NonNegative, Positive, PositiveCount


class BPKDLoss(DistillationLoss):
    """Match each class's logits as distributions over the positions of its edge, and over those of its body.

    The edge of a class is the dilation of its region minus the erosion, with a square kernel: positions on both sides
    of its border. A border with ignored positions counts too, the border of the image does not. Ignored positions are
    in no edge and in no body. An empty edge or body adds 0. Each part is computed as in `CWDLoss`.

    Source: L. Liu, Z. Wang, M. H. Phan, B. Zhang, J. Ge, Y. Liu, "BPKD: Boundary Privileged Knowledge Distillation For
    Semantic Segmentation", WACV 2024, arXiv 2306.08075. AkideLiu/BPKD at 83014fa only evaluates. The training code was
    never released, and the repository names no temperature, weight or kernel, so every default here is a choice. The
    abstract says that the edge loss tells ambiguous classes apart "at the pixel level" (`edge_softmax: classes`), and
    that the body loss attends to "inner-semantic regions" (`body: inner`).

    Args:
        num_classes: K, the channels of the logits.
        tau: Temperature.
        edge_width: Positions of the edge on each side of a border; the kernel has 2 edge_width + 1 a side.
        edge_weight: Factor of the edges.
        body_weight: Factor of the bodies.
        edge_softmax: "positions": a class's logits over its edge. "classes": the K logits of each position that is in
            any edge, mean over these positions of the batch.
        body: "rest": all labelled positions outside the class's edge. "inner": those of the class alone, its erosion.
        resize: "labels" to the logits by nearest, or "logits" of both networks to the labels, bilinearly.
    """

    default_stage = "logits"
    map_name = "logits"
    needs_labels = True
    search = {"tau": (1.0, 10.0)}

    def __init__(
        self,
        num_classes: int,
        tau: Positive = 4.0,
        edge_width: PositiveCount = 1,
        edge_weight: NonNegative = 1.0,
        body_weight: NonNegative = 1.0,
        edge_softmax: Literal["positions", "classes"] = "positions",
        body: Literal["rest", "inner"] = "rest",
        resize: Literal["labels", "logits"] = "labels",
    ) -> None:
        super().__init__(num_classes, num_classes)
        self.check_choices(edge_softmax=edge_softmax, body=body, resize=resize)
        self.num_classes = num_classes
        self.tau, self.edge_width = tau, edge_width
        self.edge_weight, self.body_weight = edge_weight, body_weight
        self.edge_softmax, self.body, self.resize = edge_softmax, body, resize

    def compute(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return tau^2 times the weighted sum of both divergences; those over positions are divided by B and K."""
        if self.resize == "logits":
            student, teacher = (
                F.interpolate(maps, labels.shape[2:], mode="bilinear", align_corners=False)
                for maps in (student, teacher)
            )
        regions = self._regions(resize_labels(labels, student, "nearest"))
        return with_gradient(partial(self._compare, *regions), student.flatten(2), teacher.flatten(2))

    def _regions(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the edge and the body of each class for labels (B, H, W), as masks (B, K, P)."""
        masks = one_hot_masks(labels, self.num_classes, torch.bool).view(-1, self.num_classes, *labels.shape[1:])
        labelled = masks.any(1, keepdim=True)
        near_others = _dilate(~masks, self.edge_width)  # what the erosion leaves is not
        edge = _dilate(masks, self.edge_width) & near_others & labelled
        body = ~near_others if self.body == "inner" else labelled & ~edge
        return edge.flatten(2), body.flatten(2)

    def _compare(
        self, edge: Tensor, body: Tensor, student: Tensor, teacher: Tensor, needs_gradient: bool
    ) -> ValueAndGradient:
        """Return the loss of logits (B, K, P), and its gradient for the student's."""
        student, teacher = student / self.tau, teacher / self.tau
        over = _over_classes if self.edge_softmax == "classes" else _over_positions
        edges, slope = over(student, teacher, edge)
        bodies, body_slope = _over_positions(student, teacher, body)
        value = self.tau**2 * (self.edge_weight * edges + self.body_weight * bodies)
        return value, slope.mul_(self.tau * self.edge_weight).add_(body_slope, alpha=self.tau * self.body_weight)


def _dilate(masks: Tensor, width: int) -> Tensor:
    """Return whether a mask (..., H, W) is set anywhere in the square of 2 width + 1 positions a side."""
    rows, columns = (min(width, side - 1) for side in masks.shape[-2:])  # no more than the map has
    framed = F.pad(masks.view(torch.uint8), (columns, columns, rows, rows))
    return window_max(window_max(framed, 2 * rows + 1, dim=-2), 2 * columns + 1, dim=-1).view(torch.bool)


def _over_positions(student: Tensor, teacher: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over B and K of divergences over the positions of a region (B, K, P), and its gradient."""
    # Finite, so that a row without a region is uniform in both maps: 0, with a gradient of 0.
    low, outside = torch.finfo(student.dtype).min, ~region
    value, slope = kl_with_gradient(student.masked_fill(outside, low), teacher.masked_fill(outside, low), dim=2)
    rows = student.shape[0] * student.shape[1]
    return value / rows, slope.div_(rows)


def _over_classes(student: Tensor, teacher: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over positions in any edge of divergences over K, 0 without such, and its gradient."""
    inside = edge.any(1, keepdim=True)
    outside, count = ~inside, inside.sum().clamp_min(1)
    # Where it is outside, both are uniform: 0, with a gradient of 0.
    value, slope = kl_with_gradient(student.masked_fill(outside, 0.0), teacher.masked_fill(outside, 0.0), dim=1)
    return value / count, slope.div_(count)
