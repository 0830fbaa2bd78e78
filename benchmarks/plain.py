"""Plain implementations of the losses: a loop for each sum over classes or pairs in the formula.

Shapes: student and teacher (B, C, H, W) of equal channels (aligned already), labels (B, 1, Hi, Wi).
Every function returns the unweighted loss, a scalar.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize_labels(labels: Tensor, like: Tensor, mode: str) -> Tensor:
    """Return labels (B, 1, H, W), int64, at the size of `like`; bilinear values are truncated."""
    options = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(labels.float(), size=like.shape[2:], mode=mode, **options).long()


def prototype(features: Tensor, region: Tensor) -> Tensor:
    """Return the mean feature (B, C) of features (B, C, H, W) in a region (B, 1, H, W)."""
    return (region * features).sum((2, 3)) / (region.sum((2, 3)) + 1e-6)


def rmrkd(student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int, tau: float = 0.1) -> Tensor:
    """Return the sum over the classes."""
    return torch.stack(list(rmrkd_by_class(student, teacher, labels, num_classes, tau))).sum()


def rmrkd_by_class(
    student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int, tau: float = 0.1
) -> Iterator[Tensor]:
    """Yield the term of each class: four cosine maps inside the region of the class and four outside."""
    small = resize_labels(labels, student, "bilinear")
    for k in range(num_classes):
        total = student.new_zeros(())
        inside = (small == k).to(student)
        ours, theirs = prototype(student, inside), prototype(teacher, inside)
        for region in (1 - inside, inside):
            masked_student, masked_teacher = region * student, region * teacher
            for vector in (ours, theirs):
                guess, target = _cosines(vector, masked_student), _cosines(vector, masked_teacher)
                total = total + _rowwise_kl(guess, target.detach(), tau) / 4
        yield total


def idd(student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the sum over pairs of classes, each with the prototypes of both networks."""
    small = resize_labels(labels, student, "bilinear")
    total = student.new_zeros(())
    for i in range(num_classes):
        for j in range(i + 1, num_classes):
            first, second = (small == i).to(student), (small == j).to(student)
            ours, theirs = (
                F.pairwise_distance(prototype(features, first), prototype(features, second), eps=1e-6)
                for features in (student, teacher)
            )
            total = total + 0.5 * (theirs - ours).square().sum() / len(student)
    return total


def ifvd(student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Compare the cosine of each position with the mean of its class; a position without a class is its own mean."""
    small = resize_labels(labels, student, "nearest")
    similarities = []
    for features in (student, teacher):
        means = features
        for k in range(num_classes):
            inside = (small == k).to(features)
            means = (1 - inside) * means + inside * prototype(features, inside)[:, :, None, None]
        similarities.append(F.cosine_similarity(features, means, dim=1))
    return (similarities[0] - similarities[1]).square().mean()


def mgd(student: Tensor, teacher: Tensor, keep_mask: Tensor, align: nn.Module, generation: nn.Module) -> Tensor:
    """Align, mask, generate and compare; `student` is not aligned yet."""
    generated: Tensor = generation(align(student) * keep_mask)
    return (generated - teacher).square().sum() / len(student)


def dkd(
    student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int, tau: float, weights: tuple[float, float]
) -> Tensor:
    """Compare the logits of each class as distributions over positions, inside its region and outside."""
    small = resize_labels(labels, student, "nearest")
    inside = torch.cat([(small == k).to(student) for k in range(num_classes)], dim=1)
    total = student.new_zeros(())
    for weight, region in zip(weights, (inside, 1 - inside), strict=True):
        guess = F.log_softmax((region * student).flatten(2) / tau, dim=2)
        target = F.softmax((region * teacher).flatten(2) / tau, dim=2)
        total = total + weight * F.kl_div(guess, target, reduction="sum")
    return total * tau**2 / (len(student) * num_classes)


def _cosines(vector: Tensor, features: Tensor) -> Tensor:
    """Return the cosines (B, H, W) of a vector (B, C) and features (B, C, H, W)."""
    return F.cosine_similarity(vector[:, :, None, None], features, dim=1)


def _rowwise_kl(guess: Tensor, target: Tensor, tau: float) -> Tensor:
    """Return the KL divergence of maps (B, H, W): softmax over the rows of each column, sum, mean over B."""
    log_guess, expected = F.log_softmax(guess / tau, dim=1), F.softmax(target / tau, dim=1)
    return F.kl_div(log_guess, expected, reduction="batchmean") * tau**2
