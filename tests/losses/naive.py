"""The losses that need no labels straight from their formulas, with every map kept by autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.losses import (
    AfDCDLoss,
    ATLoss,
    AttnFDLoss,
    CSDLoss,
    CWDLoss,
    DISTLoss,
    FitNetLoss,
    GKDLoss,
    KDLoss,
    LSKDLoss,
    PKDLoss,
    PSDLoss,
)
from rmrkd_cli.losses._cbam import CBAM
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


def naive_lskd(loss: LSKDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    """Every standardized value from its mean and its deviation, written out."""
    axis, total = (1 if loss.standardize == "classes" else 3), student.new_zeros(())
    standardized = []
    for maps in (student, teacher):
        mean = maps.sum(axis, keepdim=True) / maps.shape[axis]
        variance = (maps - mean).pow(2).sum(axis, keepdim=True) / (maps.shape[axis] - 1)
        standardized.append((maps - mean) / (1e-7 + variance.sqrt()) / loss.tau)
    for ours, theirs in zip(*standardized, strict=True):
        p, q = F.softmax(theirs, 0), F.softmax(ours, 0)
        total = total + (p * (p.log() - q.log())).sum()
    return loss.tau**2 * total * student.shape[1] / student.numel()


def naive_attnfd(loss: AttnFDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    gates = loss.teacher_attention if isinstance(loss.teacher_attention, CBAM) else None
    ours, theirs = loss.align(_refined(loss.attention, student)), _refined(gates, teacher)
    difference = ours / ours.pow(2).sum().sqrt() - theirs / theirs.pow(2).sum().sqrt()
    return difference.pow(2).sum() / len(student)


def _refined(gates: CBAM | None, maps: Tensor) -> Tensor:
    """CBAM of every image in its turn; without weights for None."""
    images = []
    for image in maps:
        pooled = [image.mean((1, 2)), image.flatten(1).max(1).values]
        if gates is None:
            gate = pooled[0] + pooled[1]
        else:
            first, _, second = gates.mlp
            hidden = [(first.weight @ each + first.bias).clamp_min(0) for each in pooled]
            gate = second.weight @ (hidden[0] + hidden[1]) + 2 * second.bias
        images.append(image / (1 + (-gate).exp())[:, None, None])
    scaled = torch.stack(images)
    over_channels = torch.stack([scaled.max(1).values, scaled.mean(1)], 1)
    if gates is None:
        return scaled * over_channels.sum(1, keepdim=True).sigmoid()
    return scaled * gates.norm(F.conv2d(over_channels, gates.conv.weight, padding=3)).sigmoid()


def naive_af_dcd(loss: AfDCDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    """Every patch in its turn, and every pair of its pieces."""
    generated = loss.mgd.generation(loss.mgd.align(student) * loss.draw_mask(student))
    features = (generated - teacher).pow(2).sum() / len(student)
    pool = max(1, min(loss.pool, *(side // 4 for side in student.shape[2:])))
    high, wide = (min(4, side) for side in student.shape[2:])
    pooled = [_max_of_windows(maps, pool) for maps in (generated, teacher)]
    height, width = (one * (side // pool // one) for one, side in zip((high, wide), student.shape[2:], strict=True))
    group = torch.arange(high * wide * loss.groups, device=student.device) // (high * wide)
    counted, total = (group[:, None] != group).fill_diagonal_(True), student.new_zeros(())
    for image in range(len(student)):
        for top in range(0, height, high):
            for left in range(0, width, wide):
                patches = [maps[image, :, top : top + high, left : left + wide].flatten(1) for maps in pooled]
                ours, theirs = (each.unflatten(0, (loss.groups, -1)).transpose(1, 2).flatten(0, 1) for each in patches)
                scores = -(ours[:, None] - theirs).abs().sum(2) / loss.tau
                total = total + (scores.masked_fill(~counted, -torch.inf).logsumexp(1) - scores.diagonal()).sum()
    return loss.feature_weight * features + loss.contrast_weight * total / (len(student) * height * width)


def naive_gkd(loss: GKDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    """Every image in its turn, with the whole matrix of its positions."""
    total, count = student.new_zeros(()), 0
    for image in range(len(student)):
        ours, theirs = (
            torch.stack([window.mean((1, 2)) for window in _windows(maps[image], loss.pool)])
            for maps in (student, teacher)
        )
        normalized = (ours - ours.mean(1, keepdim=True)) / (ours.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        query, value = (
            (normalized * norm.weight + norm.bias) @ linear.weight.T + linear.bias
            for norm, linear in (loss.query, loss.value)
        )
        mixed = F.softmax(query @ theirs.T, 1) @ value
        total, count = total + (mixed - theirs).pow(2).sum(), count + theirs.numel()
    return total / count


def _windows(maps: Tensor, side: int) -> list[Tensor]:
    """The windows (C, side, side) of a map (C, H, W), row by row; those at the border may be smaller."""
    return [window for rows in maps.split(side, 1) for window in rows.split(side, 2)]


def _max_of_windows(maps: Tensor, side: int) -> Tensor:
    return maps.unfold(2, side, side).unfold(3, side, side).flatten(4).max(4).values


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
        results.append(
            [
                value.detach(),
                *torch.autograd.grad(value, [*leaves, *(each for each in loss.parameters() if each.requires_grad)]),
            ]
        )
    loss.float()
    return max(error(got, want) for got, want in zip(*results, strict=True))
