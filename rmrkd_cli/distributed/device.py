"""Choose the device, and the number of worker processes on this machine."""

from __future__ import annotations

import os

import torch

from rmrkd_cli.errors import RmrkdError


def choose_device(wanted: str, workers: int | None) -> tuple[str, int]:
    """Return the device kind, "cpu" or "cuda", and the number of worker processes on this machine.

    Args:
        wanted: "auto", "cpu" or "cuda".
        workers: Value of `--gpus`; None means one.

    Raises:
        RmrkdError: When `--gpus` is larger than the number of GPUs.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = workers or 1
    if wanted == "cpu":
        return "cpu", count
    if wanted == "auto" and not available and count == 1:
        return "cpu", 1
    if count > available:
        raise RmrkdError(
            f"--gpus {count}: this machine has {available} GPU(s)",
            f"--gpus {available}" if available else f"--device cpu --gpus {min(count, os.cpu_count() or 1)}",
        )
    return "cuda", count
