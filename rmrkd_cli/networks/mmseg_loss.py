"""The loss of an mmsegmentation head, without the accuracy that mmsegmentation computes beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def head_loss(head: Any, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of a head's losses with their factors, a scalar.

    Args:
        head: A decode or auxiliary head.
        logits: (B, K, h, w); the head resizes them to the labels.
        labels: (B, 1, H, W) int64, 255 ignored.
    """
    with _without_accuracy(head):
        losses = head.losses(logits.float(), labels)
    return torch.stack([value for name, value in losses.items() if "loss" in name]).sum()


@contextmanager
def _without_accuracy(head: Any) -> Iterator[None]:
    """Let the head's `losses` skip its accuracy, which nothing reads.

    It sorts the classes of every pixel at full size, and on a GPU it waits for the result twice a head.
    """
    modules = [module for module in _modules_of(head) if hasattr(module, "accuracy")]
    before = [module.accuracy for module in modules]
    for module in modules:
        module.accuracy = _no_accuracy
    try:
        yield
    finally:
        for module, accuracy in zip(modules, before, strict=True):
            module.accuracy = accuracy


def _modules_of(head: Any) -> list[Any]:
    """Return the modules of mmsegmentation that the head's class and its base classes come from."""
    names = dict.fromkeys(cls.__module__ for cls in type(head).__mro__)
    return [sys.modules[name] for name in names if name.startswith("mmseg.") and name in sys.modules]


def _no_accuracy(*_: Any, **__: Any) -> None:
    return None
