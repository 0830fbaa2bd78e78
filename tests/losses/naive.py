"""The losses that need no labels straight from their formulas, with every map kept by autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses import CWDLoss, DISTLoss, KDLoss
from tests.losses.common import error

Naive = Callable[..., Tensor]


def naive_kd(loss: KDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    images, classes, height, width = student.shape
    ours, theirs = (x.permute(0, 2, 3, 1).reshape(-1, classes) / loss.tau for x in (student, teacher))
    p, q = F.softmax(theirs, 1), F.softmax(ours, 1)
    total = -(p * q.log()).sum() if loss.reduction == "skd" else (p * (p.log() - q.log())).sum()
    divisor = {"pixels": images * height * width, "skd": height * width, "mmrazor": images}
    squared = 1 if loss.reduction in ("elements", "skd") else loss.tau**2
    return squared * total / divisor.get(loss.reduction, student.numel())


def naive_cwd(loss: CWDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    """Every channel's divergence in its turn."""
    channels = teacher.shape[1] if loss.divide_by == "teacher" else student.shape[1]
    total = student.new_zeros(())
    for s, t in zip(loss.align(student), teacher, strict=True):
        for ours, theirs in zip(s, t, strict=True):
            p, q = F.softmax(theirs.flatten() / loss.tau, 0), F.softmax(ours.flatten() / loss.tau, 0)
            total = total + (p * (p.log() - q.log())).sum()
    return loss.tau**2 * total / (len(student) * channels)


def naive_dist(loss: DISTLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    pixels = [F.softmax(x / loss.tau, 1).permute(0, 2, 3, 1).flatten(0, 2) for x in (student, teacher)]
    if loss.intra_over == "positions":
        classes = [x.T for x in pixels]
    else:
        classes = [F.softmax(x / loss.tau, 1).permute(1, 2, 3, 0).flatten(0, 2) for x in (student, teacher)]
    inter, intra = 1 - _correlations(*pixels).mean(), 1 - _correlations(*classes).mean()
    return loss.tau**2 * (loss.beta * inter + loss.gamma * intra)


def _correlations(a: Tensor, b: Tensor) -> Tensor:
    """Of the rows."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


def error_of(loss: nn.Module, naive: Naive, *inputs: Tensor) -> float:
    """The largest relative error of value and gradients, of the student's map and of what learns, against float64."""
    student, teacher, *labels = inputs
    results = []
    for compute, dtype in ((loss, torch.float32), (lambda *maps: naive(loss, *maps), torch.float64)):
        loss.to(dtype)
        leaf = student.to(dtype).requires_grad_()
        value = compute(leaf, teacher.to(dtype), *labels)
        results.append([value.detach(), *torch.autograd.grad(value, (leaf, *loss.parameters()))])
    loss.float()
    return max(error(got, want) for got, want in zip(*results, strict=True))
