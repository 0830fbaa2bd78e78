"""The losses that need no labels straight from their formulas, with every map kept by autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses import ATLoss, CSDLoss, CWDLoss, DISTLoss, FitNetLoss, KDLoss, PKDLoss, PSDLoss
from tests.losses.common import error

Naive = Callable[..., Tensor]
Maps = Tensor | tuple[Tensor, ...]


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


def naive_at(loss: ATLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    total = student.new_zeros(())
    for s, t in zip(student, teacher, strict=True):
        difference = _attention(s) - _attention(t)
        total = total + (difference.square().mean() if loss.mode == "code" else difference.norm())
    return total / len(student)


def _attention(features: Tensor) -> Tensor:
    """(C, H, W) to (P,)."""
    return F.normalize(features.pow(2).mean(0).flatten(), dim=0)


def naive_fitnet(loss: FitNetLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    aligned = torch.einsum("dc,bchw->bdhw", loss.align.weight[:, :, 0, 0], student)
    return (aligned - teacher).pow(2).mean()


def naive_pkd(loss: PKDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    """Every channel in its turn."""
    total = student.new_zeros(())
    for s, t in zip(loss.align(student).transpose(0, 1), teacher.transpose(0, 1), strict=True):
        ours, theirs = ((x - x.mean()) / (x.std() + 1e-6) for x in (s, t))
        total = total + 0.5 * (ours - theirs).pow(2).mean()
    return total / teacher.shape[1]


def naive_psd(
    loss: PSDLoss, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], labels: Tensor | None = None
) -> Tensor:
    """Every image and pair of maps of one size in its turn."""
    total, images, count = student[0].new_zeros(()), len(student[0]), len(student)
    for b in range(images):
        for n in range(count):
            for m in range(n + 1, count):
                ours, theirs = (
                    F.normalize(_attention(maps[m][b]) - _attention(maps[n][b]), dim=0) for maps in (student, teacher)
                )
                total = total + (ours - theirs).pow(2).mean()
    return total / (images * count * (count - 1) / 2)


def naive_csd(loss: CSDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    total = student.new_zeros(())
    for s, t in zip(student, teacher, strict=True):
        products = []
        for logits in (s, t):
            rows = F.avg_pool2d(logits[None], 2, ceil_mode=True)[0].flatten(1)
            q = F.softmax(rows / loss.tau, 1)
            products.append(torch.stack([(q[i] * q[j]).sum() for i in range(len(q)) for j in range(len(q))]))
        total = total + (products[0] - products[1]).pow(2).mean()
    return total / len(student)


def error_of(loss: nn.Module, naive: Naive, student: Maps, teacher: Maps, *labels: Tensor) -> float:
    """The largest relative error of value and gradients, of the student's maps and of what learns, against float64."""
    results = []
    for compute, dtype in ((loss, torch.float32), (lambda *maps: naive(loss, *maps), torch.float64)):
        loss.to(dtype)
        ours, theirs = (
            [x.to(dtype) for x in (maps if isinstance(maps, tuple) else [maps])] for maps in (student, teacher)
        )
        leaves = [x.clone().requires_grad_() for x in ours]
        several = isinstance(student, tuple)
        value = compute(*((tuple(x) if several else x[0]) for x in (leaves, theirs)), *labels)
        results.append([value.detach(), *torch.autograd.grad(value, [*leaves, *loss.parameters()])])
    loss.float()
    return max(error(got, want) for got, want in zip(*results, strict=True))
