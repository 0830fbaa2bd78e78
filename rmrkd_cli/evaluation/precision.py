"""The precision of float32 products on a GPU, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rmrkd_cli.evaluation.machine import device_name

EVALUATION_TF32 = True  # of `eval` and `compare`, for every checkpoint; the default of `schedule.tf32`


def select_precision(tf32: bool) -> None:
    """Set whether GPUs multiply float32 numbers with TF32's 10 bits: in convolutions and in matrix products alike.

    torch's default is TF32 for convolutions only.
    """
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32


@contextmanager
def float32_precision(tf32: bool) -> Iterator[None]:
    """Call `select_precision` for this block, and restore torch's settings at its end."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    select_precision(tf32)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def evaluation_settings(device: torch.device) -> dict[str, Any]:
    """Return the entry `evaluation` of the result record: device, and whether it uses TF32 now; None on a CPU."""
    tf32 = torch.backends.cuda.matmul.allow_tf32 if device.type == "cuda" else None
    return {"device": device_name(device), "tf32": tf32}
