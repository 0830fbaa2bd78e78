"""Determinism beyond torch's own switches: a repeated run gives the same weights, bit for bit."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import nn

from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.training.deterministic_resize import replace_functions


def seed_step(seed: int, step: int, rank: int, device_type: str) -> None:
    """Seed torch for one step, so that dropout and MGD's mask depend on (seed, step, rank) alone.

    torch.manual_seed does the same and also seeds all other device types, which takes longer than the rest.
    """
    state = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(state)
    if device_type == "cuda":
        torch.cuda.manual_seed(state)


def make_deterministic(device_type: str) -> None:
    """Select deterministic kernels, and replace bilinear resizing and adaptive pooling, which have slow ones or none.

    (mmseg's `deterministic` sets cuDNN alone.) Operations without a deterministic kernel print a warning.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when its first handle is created
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    # Filling new tensors costs a pass over each of them, and does not change results.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device_type == "cuda":
        replace_functions()


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
    stored = {}
    if model.stored_classes is not None:
        stored["teacher_logits"] = torch.zeros(1, model.stored_classes, 1, 1, device=device)
    model.total(wrapped(images, labels, **stored)).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    model.train()
