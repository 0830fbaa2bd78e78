"""The losses written straight from their formulas: a loop where the formula has a sum over classes or pairs.

Shapes: student and teacher (B, C, H, W) of equal channels (aligned already), labels (B, 1, Hi, Wi).
Every function returns the unweighted loss, a scalar.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def small_labels(labels: Tensor, like: Tensor, mode: str) -> Tensor:
    """(B, 1, H, W) int64 at the size of `like`: nearest, or bilinear with the blended values truncated."""
    options = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(labels.float(), size=like.shape[2:], mode=mode, **options).long()


def prototype(features: Tensor, region: Tensor) -> Tensor:
    """Mean feature of a region: (B, C, H, W) and (B, 1, H, W) to (B, C)."""
    return (region * features).sum((2, 3)) / (region.sum((2, 3)) + 1e-6)


def rmrkd(student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int, tau: float = 0.1) -> Tensor:
    """The sum over the classes."""
    return torch.stack(list(rmrkd_by_class(student, teacher, labels, num_classes, tau))).sum()


def rmrkd_by_class(
    student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int, tau: float = 0.1
) -> Iterator[Tensor]:
    """Each class's share: four cosine maps inside the class's region, and four outside of it."""
    small = small_labels(labels, student, "bilinear")
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
    """Pair by pair, each with the prototypes of its two classes in both networks."""
    small = small_labels(labels, student, "bilinear")
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
    """The cosine of each position with the mean of its class; a position of no class is its own mean."""
    small = small_labels(labels, student, "nearest")
    similarities = []
    for features in (student, teacher):
        means = features
        for k in range(num_classes):
            inside = (small == k).to(features)
            means = (1 - inside) * means + inside * prototype(features, inside)[:, :, None, None]
        similarities.append(F.cosine_similarity(features, means, dim=1))
    return (similarities[0] - similarities[1]).square().mean()


def mgd(student: Tensor, teacher: Tensor, keep_mask: Tensor, align: nn.Module, generation: nn.Module) -> Tensor:
    """Align, hide, generate, compare; `student` has its own channels here."""
    generated: Tensor = generation(align(student) * keep_mask)
    return (generated - teacher).square().sum() / len(student)


def dkd(
    student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int, tau: float, weights: tuple[float, float]
) -> Tensor:
    """Logits of each class as distributions over positions, once of its region and once of the rest."""
    small = small_labels(labels, student, "nearest")
    inside = torch.cat([(small == k).to(student) for k in range(num_classes)], dim=1)
    total = student.new_zeros(())
    for weight, region in zip(weights, (inside, 1 - inside), strict=True):
        guess = F.log_softmax((region * student).flatten(2) / tau, dim=2)
        target = F.softmax((region * teacher).flatten(2) / tau, dim=2)
        total = total + weight * F.kl_div(guess, target, reduction="sum")
    return total * tau**2 / (len(student) * num_classes)


def _cosines(vector: Tensor, features: Tensor) -> Tensor:
    """(B, C) and (B, C, H, W) to (B, H, W)."""
    return F.cosine_similarity(vector[:, :, None, None], features, dim=1)


def _rowwise_kl(guess: Tensor, target: Tensor, tau: float) -> Tensor:
    """(B, H, W) maps; a softmax over the rows of each column, summed, mean over B."""
    log_guess, expected = F.log_softmax(guess / tau, dim=1), F.softmax(target / tau, dim=1)
    return F.kl_div(log_guess, expected, reduction="batchmean") * tau**2
