"""The losses on regions of the labels straight from their definitions, with a loop over classes and positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses import BPKDLoss


def naive_bpkd(loss: BPKDLoss, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Every image and class in its turn. Labels at the size of the maps for `resize: labels`."""
    if loss.resize == "logits":
        student, teacher = (
            F.interpolate(maps, labels.shape[2:], mode="bilinear", align_corners=False) for maps in (student, teacher)
        )
    images, classes = student.shape[:2]
    edges, bodies, at_any_edge = student.new_zeros(()), student.new_zeros(()), 0
    for image in range(images):
        regions = [naive_regions(labels[image, 0], k, classes, loss) for k in range(classes)]
        for k, (edge, body) in enumerate(regions):
            ours, theirs = (maps[image, k] / loss.tau for maps in (student, teacher))
            bodies = bodies + _divergence(ours[body], theirs[body]) / (images * classes)
            if loss.edge_softmax == "positions":
                edges = edges + _divergence(ours[edge], theirs[edge]) / (images * classes)
        if loss.edge_softmax == "classes":
            for row, column in torch.stack([edge for edge, _ in regions]).any(0).nonzero().tolist():
                ours, theirs = (maps[image, :, row, column] / loss.tau for maps in (student, teacher))
                edges, at_any_edge = edges + _divergence(ours, theirs), at_any_edge + 1
    edges = edges / max(1, at_any_edge) if loss.edge_softmax == "classes" else edges
    return loss.tau**2 * (loss.edge_weight * edges + loss.body_weight * bodies)


def naive_regions(labels: Tensor, k: int, classes: int, loss: BPKDLoss) -> tuple[Tensor, Tensor]:
    """The edge and the body of class k in labels (H, W): what each position has in its window."""
    width, mine = loss.edge_width, labels == k
    labelled = (labels >= 0) & (labels < classes)
    dilated, eroded = torch.zeros_like(mine), torch.zeros_like(mine)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            rows, columns = (slice(max(0, place - width), place + width + 1) for place in (row, column))
            dilated[row, column] = mine[rows, columns].any()
            eroded[row, column] = mine[rows, columns].all()
    edge = dilated & ~eroded & labelled
    return edge, eroded if loss.body == "inner" else labelled & ~edge


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of a vector of logits, which may be empty."""
    p, q = F.softmax(theirs, 0), F.softmax(ours, 0)
    return (p * (p.log() - q.log())).sum()
