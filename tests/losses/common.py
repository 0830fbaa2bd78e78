"""What the tests of several losses share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

K = 4


def sample(seed: int = 0, channels: tuple[int, int] = (4, 4), size: tuple[int, int] = (5, 6)) -> tuple[Tensor, ...]:
    """Student, teacher, and labels at the size of the maps with a few ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, c, *size, generator=generator) for c in channels)
    labels = torch.randint(0, K, (2, 1, *size), generator=generator)
    return student, teacher, labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.1, 255)


def value_and_grad(loss: nn.Module, student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher, labels)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def error(got: Tensor, want: Tensor) -> float:
    """The relative difference in the Euclidean norm."""
    return ((got - want).norm() / want.norm()).item()
