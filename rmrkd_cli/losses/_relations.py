"""Relations between all pairs of positions, computed in blocks of rows together with their gradient.

A matrix of all pairs of positions takes gigabytes. The losses on such matrices compute one block of rows at a time, and
with it that block's part of the gradient. Only one map is saved for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rmrkd_cli.losses._functional import kl_with_gradient

ValueAndGradient = tuple[Tensor, Tensor | None]
MIN_NORM = 1e-12  # as in F.normalize
_CPU_BLOCK = 1 << 20  # values of the matrix computed at once: about a core's cache
_GPU_BLOCK = 1 << 22  # enough work for a kernel launch


def to_rows(maps: Tensor) -> Tensor:
    """Return (B, P, C), one row a position, of (B, C, H, W); a channels-last map is not copied."""
    return maps.flatten(2).mT.contiguous()


def normalize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (..., C) scaled to length 1 as F.normalize does, and their former lengths (..., 1)."""
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / norms.clamp_min(MIN_NORM), norms


def normalize_rows_backward(gradient: Tensor, units: Tensor, norms: Tensor) -> Tensor:
    """Turn the gradient for unit rows into the one for the rows before `normalize_rows`, in place.

    A row shorter than `MIN_NORM` gets no gradient; F.normalize would multiply it by 1e12.
    """
    gradient.addcmul_(units, (units * gradient).sum(-1, keepdim=True), value=-1)
    return gradient.div_(norms.clamp_min(MIN_NORM)).masked_fill_(norms <= MIN_NORM, 0)


def row_blocks(rows: int, columns: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield start and stop of blocks of rows that cover a matrix."""
    step = max(1, (_CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK) // columns)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def image_relations(
    student: Tensor, teacher: Tensor, images: int, tau: float, gradient: Tensor | None, factor: float = 1.0
) -> Tensor:
    """Compare each row's cosines with the rows of one image, as a distribution, for every ordered pair of images.

    Args:
        student, teacher: (B * P, C) rows of length 1; each network in its own C.
        images: B.
        tau: Temperature of the cosines.
        gradient: The gradient for the student's rows is added to it; None where none is needed.
        factor: Of the result and its gradient.

    Returns:
        The mean over pairs of images and over rows of the divergence.
    """
    count = len(student)
    scale, total = factor / (images * count), student.new_zeros(())
    for start, stop in row_blocks(count, count, student.device):
        block = (stop - start, images, count // images)  # rows of every image with every image
        logits, targets = ((units[start:stop] / tau @ units.mT).view(block) for units in (student, teacher))
        divergence, slope = kl_with_gradient(logits, targets, dim=2)
        total += divergence
        if gradient is not None:
            slope = slope.flatten(1)
            gradient[start:stop].addmm_(slope, student, alpha=scale / tau)
            gradient.addmm_(slope.mT, student[start:stop], alpha=scale / tau)
    return total * scale


def memory_relations(
    student: Tensor, teacher: Tensor, memory: Tensor, tau: float, gradient: Tensor | None, factor: float = 1.0
) -> Tensor:
    """Compare each row's cosines with stored rows, as a distribution.

    Args:
        student, teacher: (N, C) rows of length 1.
        memory: (M, C) rows of length 1.
        tau, gradient, factor: As in `image_relations`.

    Returns:
        The mean over rows of the divergence.
    """
    scale, total = factor / len(student), student.new_zeros(())
    for start, stop in row_blocks(len(student), len(memory), student.device):
        logits, targets = (units[start:stop] @ memory.mT / tau for units in (student, teacher))
        divergence, slope = kl_with_gradient(logits, targets, dim=1)
        total += divergence
        if gradient is not None:
            gradient[start:stop].addmm_(slope, memory, alpha=scale / tau)
    return total * scale


def with_gradient(
    compare: Callable[[Tensor, Tensor, bool], ValueAndGradient], student: Tensor, teacher: Tensor
) -> Tensor:
    """Return a scalar whose gradient for the student is computed together with it.

    Args:
        compare: From the student's and the teacher's rows to the value, and to the gradient for the student where the
            last argument is True.
    """
    needs_gradient = torch.is_grad_enabled() and student.requires_grad
    with torch.no_grad():
        value, gradient = compare(student, teacher, needs_gradient)
    if gradient is None:
        return value
    result: Tensor = _WithGradient.apply(student, value, gradient)
    return result


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None]:
        return factor * ctx.saved_tensors[0], None, None
