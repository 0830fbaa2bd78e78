"""What makes a second run equal the first one, bit for bit, where torch alone does not."""

from __future__ import annotations

import os
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from rmrkd_cli.distillation.distiller import Distiller


def seed_step(seed: int, step: int, rank: int, device_type: str) -> None:
    """Dropout and MGD's mask depend on these three alone.

    As torch.manual_seed, which also asks every other kind of device and takes longer than all the rest of this.
    """
    state = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(state)
    if device_type == "cuda":
        torch.cuda.manual_seed(state)


def make_deterministic(network: nn.Module, device_type: str) -> None:
    """Asks for deterministic kernels, and replaces what has none.

    Under torch's switch bilinear resizing takes a decomposition whose backward pass adds in a fixed order (mmseg's own
    `deterministic` sets cuDNN alone). Adaptive average pooling has no such form on GPUs and becomes two matrix
    products. What is left without one gives a warning that names it.

    Args:
        network: The one that is trained; changed in place.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first GPU handle is made
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    # the other half of torch's switch costs a pass over every new map and changes no result
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device_type == "cuda":
        replace_pooling(network)


def replace_pooling(network: nn.Module) -> None:
    """Gives adaptive average pooling a backward pass of matrix products, wherever it occurs."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(parent, name, MatrixPool2d(cast("int | tuple[int | None, int | None]", child.output_size)))


class MatrixPool2d(nn.Module):
    """nn.AdaptiveAvgPool2d as a product with averaging matrices on either side.

    Args:
        output_size: One number, or (height, width), of which either may be none for the input's own.
    """

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.output_size = output_size if isinstance(output_size, tuple) else (output_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, *output_size)."""
        rows, columns = (
            _averages(size, out or size, features)
            for size, out in zip(features.shape[2:], self.output_size, strict=True)
        )
        return rows @ features @ columns.mT


def _averages(size: int, out: int, like: Tensor) -> Tensor:
    """(out, size): row i averages the positions from floor(i * size / out) to ceil((i + 1) * size / out)."""
    index = torch.arange(out, device=like.device)[:, None]
    position = torch.arange(size, device=like.device)
    start, end = index * size // out, -(-(index + 1) * size // out)
    inside = (position >= start) & (position < end)
    return (inside.double() / (end - start)).to(like.dtype)


def warm_buckets(model: Distiller, wrapped: nn.Module, crop: tuple[int, int], device: torch.device) -> None:
    """Lets DDP see one backward pass before the first step.

    After its first backward pass DDP sorts gradients into buckets anew, in the order they came. Three and more workers
    add up a bucket's parts in an order that depends on where in it they lie, so the first step of a run, and the first
    after each resumption, would be rounded otherwise than the same step of a run that was not stopped.

    The pass is made in eval mode, so that batch-norm statistics stay as they are, and its gradients are dropped.
    """
    model.eval()
    images = torch.zeros(1, 3, *crop, device=device)
    labels = torch.zeros(1, 1, *crop, dtype=torch.long, device=device)
    model.total(wrapped(images, labels)).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    model.train()
