"""The losses on relations straight from their formulas, with every matrix of pairs kept by autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses import CIRKDChannelLoss, CIRKDLoss, CIRKDMemoryLoss, CIRKDv2Loss, IFVDLoss, SKDLoss
from rmrkd_cli.losses._functional import resize_labels
from rmrkd_cli.losses._memory_bank import MemoryQueue
from rmrkd_cli.losses._projector import ContextBlock
from tests.losses.naive import naive_fitnet


def naive_ifvd(loss: IFVDLoss, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """A mean feature at every position; an ignored position keeps its own feature. Labels at the size of the maps."""
    total = student.new_zeros(())
    for s, t, y in zip(loss.align(student), teacher, labels, strict=True):
        cosines = []
        for f in (s, t):
            means = f
            for k in range(loss.num_classes):
                inside = (y == k).to(f)
                mean = (inside * f).sum((1, 2)) / (inside.sum() + 1e-6)
                means = torch.where(y == k, mean[:, None, None], means)
            cosines.append(F.cosine_similarity(f, means, dim=0))
        total = total + (cosines[0] - cosines[1]).square().mean()
    return total / len(student)


def naive_skd(loss: SKDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    total = student.new_zeros(())
    for s, t in zip(student, teacher, strict=True):
        kernel = (2, 2) if loss.nodes == "2x2" else (max(1, s.shape[1] // 2), max(1, s.shape[2] // 2))
        cosines = []
        for features in (s, t):
            nodes = F.max_pool2d(features, kernel, kernel, ceil_mode=True).flatten(1)
            length = nodes.square().sum(0).sqrt().detach() + 1e-8
            unit = nodes / length if loss.detach_norm else F.normalize(nodes, dim=0)
            cosines.append(unit.T @ unit)
        total = total + (cosines[0] - cosines[1]).square().mean()
    return total / len(student)


def naive_cirkd(loss: CIRKDLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    ours, theirs = (
        F.normalize(F.avg_pool2d(maps, loss.pool, loss.pool, ceil_mode=True).flatten(2), dim=1)
        for maps in (student, teacher)
    )
    total = student.new_zeros(())
    for i in range(len(student)):
        for j in range(len(student)):
            logits, targets = (units[i].T @ units[j] / loss.tau for units in (ours, theirs))
            divergences = F.kl_div(logits.log_softmax(1), targets.softmax(1), reduction="batchmean")
            total = total + divergences
    return total / len(student) ** 2


def naive_cirkd_memory(loss: CIRKDMemoryLoss, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """In training mode the loss's own memory is filled, an image and class after the other."""
    classes = resize_labels(labels, student, "nearest")
    ours, theirs = F.normalize(loss.projector(student), dim=1), F.normalize(teacher, dim=1)
    if loss.training:
        loss.bank.passes += 1
        for features, marked in zip(theirs, classes, strict=True):
            naive_push(loss, features.flatten(1).T, marked.flatten())
    held = (classes >= 0) & (classes < loss.num_classes)
    if not held.any():
        return 0 * ours.sum()
    total = student.new_zeros(())
    for vectors, factor in zip(loss.bank.sample(), loss.factors, strict=True):
        logits, targets = (maps.movedim(1, -1)[held] @ vectors.T / loss.tau for maps in (ours, theirs))
        total = total + factor * F.kl_div(logits.log_softmax(1), targets.softmax(1), reduction="batchmean")
    return total


def naive_push(loss: CIRKDMemoryLoss, units: Tensor, classes: Tensor) -> None:
    """One image: (P, C) and (P,)."""
    for k in range(loss.num_classes):
        inside = (classes == k).nonzero().flatten()
        if len(inside):
            drawn = torch.randperm(len(inside))[: loss.bank.pushed]
            positions = drawn if loss.bank.released else inside[drawn]
            naive_enqueue(loss.bank.regions, k, F.normalize(units[inside].mean(0, keepdim=True)))
            naive_enqueue(loss.bank.pixels, k, units[positions])


def naive_enqueue(queue: MemoryQueue, k: int, vectors: Tensor) -> None:
    size, first, count = queue.vectors.shape[1], int(queue.next_slot[k]), len(vectors)
    if first + count >= size:
        queue.vectors[k, size - count :] = vectors
        queue.next_slot[k] = 0
    else:
        queue.vectors[k, first : first + count] = vectors
        queue.next_slot[k] += count


def naive_cirkd_channel(
    loss: CIRKDChannelLoss, student: Tensor, teacher: Tensor, labels: Tensor | None = None
) -> Tensor:
    """In training mode the loss's own memory is filled, with channels in any order."""
    ours, theirs = (F.avg_pool2d(maps, 4, ceil_mode=True) for maps in (student, teacher))
    ours, theirs = (F.normalize(maps.flatten(2), dim=2) for maps in (loss.projector(ours), theirs))
    images, channels = theirs.shape[:2]
    if loss.training:
        loss.bank.passes += 1
        drawn = torch.randperm(images * channels)[: loss.bank.pushed]
        naive_enqueue(loss.bank.channels, 0, theirs.flatten(0, 1)[drawn])
    batch = student.new_zeros(())
    for i in range(images):
        for j in range(images):
            logits, targets = (units[i] @ units[j].T / loss.tau for units in (ours, theirs))
            batch = batch + F.kl_div(logits.log_softmax(1), targets.softmax(1), reduction="batchmean") / images**2
    logits, targets = (units.flatten(0, 1) @ loss.bank.sample().T / loss.tau for units in (ours, theirs))
    memory = F.kl_div(logits.log_softmax(1), targets.softmax(1), reduction="batchmean")
    parts = (batch, memory, (ours - theirs).square().mean())
    return sum((factor * part for factor, part in zip(loss.factors, parts, strict=True)), start=0 * batch)


def naive_cirkdv2(loss: CIRKDv2Loss, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    student = naive_context(loss.context, student)
    return (
        loss.fitnet_weight * naive_fitnet(loss.fitnet, student, teacher)
        + loss.batch_pixel_weight * naive_cirkd(loss.batch_pixels, student, teacher)
        + naive_cirkd_memory(loss.memory, student, teacher, labels)
        + naive_cirkd_channel(loss.channel_relations, student, teacher)
    )


def naive_context(block: ContextBlock, maps: Tensor) -> Tensor:
    """Every image in its turn, with its whole matrix of pairs of positions."""
    attended = []
    for image in maps:
        query, key, value = (
            layer.weight[:, :, 0, 0] @ image.flatten(1) for layer in (block.query, block.key, block.value)
        )
        share = (query.T @ key / len(query) ** 0.5).softmax(1)
        attended.append((value @ share.T).view(-1, *image.shape[1:]))
    return block.merge(torch.cat([maps, block.context(torch.stack(attended))], 1))
