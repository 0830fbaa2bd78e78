"""Determinism beyond torch's own switches: a repeated run gives the same weights, bit for bit."""

from __future__ import annotations

import os
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from rmrkd_cli.distillation.distiller import Distiller


def seed_step(seed: int, step: int, rank: int, device_type: str) -> None:
    """Seed torch for one step, so that dropout and MGD's mask depend on (seed, step, rank) alone.

    torch.manual_seed does the same and also seeds all other device types, which takes longer than the rest.
    """
    state = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(state)
    if device_type == "cuda":
        torch.cuda.manual_seed(state)


def make_deterministic(network: nn.Module, device_type: str) -> None:
    """Select deterministic kernels, and replace adaptive average pooling, which has none on GPUs.

    With torch's switch the backward pass of bilinear resizing adds in a fixed order. (mmseg's `deterministic` sets
    cuDNN alone.) Operations without a deterministic kernel print a warning.

    Args:
        network: The trained network; changed in place.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when its first handle is created
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    # Filling new tensors costs a pass over each of them, and does not change results.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device_type == "cuda":
        replace_adaptive_pooling(network)


def replace_adaptive_pooling(network: nn.Module) -> None:
    """Replace each nn.AdaptiveAvgPool2d by MatrixPool2d."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(parent, name, MatrixPool2d(cast("int | tuple[int | None, int | None]", child.output_size)))


class MatrixPool2d(nn.Module):
    """nn.AdaptiveAvgPool2d as a product with two averaging matrices, whose backward pass is deterministic.

    Args:
        output_size: One number, or (height, width); None keeps the input's size.
    """

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.output_size = output_size if isinstance(output_size, tuple) else (output_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, *output_size)."""
        rows, columns = (
            _averaging_matrix(size, out or size, features)
            for size, out in zip(features.shape[2:], self.output_size, strict=True)
        )
        return rows @ features @ columns.mT


def _averaging_matrix(size: int, out: int, like: Tensor) -> Tensor:
    """Return a matrix (out, size): row i averages positions floor(i * size / out) .. ceil((i + 1) * size / out)."""
    index = torch.arange(out, device=like.device)[:, None]
    position = torch.arange(size, device=like.device)
    start, end = index * size // out, -(-(index + 1) * size // out)
    inside = (position >= start) & (position < end)
    return (inside.double() / (end - start)).to(like.dtype)


def warm_up_ddp_buckets(model: Distiller, wrapped: nn.Module, crop: tuple[int, int], device: torch.device) -> None:
    """Run one backward pass, so that DDP sorts its gradient buckets before the first step.

    DDP sorts gradients into buckets again after its first backward pass. With three or more workers the order of a
    sum depends on the position in the bucket. Without this the first step after each resumption would round
    differently from the same step of an uninterrupted run.

    The model is in eval mode meanwhile, so that batch-norm statistics do not change. The gradients are dropped.
    """
    model.eval()
    images = torch.zeros(1, 3, *crop, device=device)
    labels = torch.zeros(1, 1, *crop, dtype=torch.long, device=device)
    model.total(wrapped(images, labels)).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    model.train()
