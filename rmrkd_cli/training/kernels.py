"""The kernels of a GPU: cuDNN's search for the fastest convolution, and what the result record says of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def search_kernels(device_type: str) -> Iterator[None]:
    """Let cuDNN try its kernels once for each shape in this block; not under deterministic algorithms.

    It suits training, where all crops have one size. In evaluation each size of image would be searched for.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = _may_search(device_type)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def kernel_settings(device_type: str) -> dict[str, bool | None]:
    """Return the settings of this process for the result record; None where they do not apply."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    if device_type != "cuda":
        return {"tf32": None, "cudnn_benchmark": None, "deterministic": deterministic}
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return {"tf32": tf32, "cudnn_benchmark": _may_search(device_type), "deterministic": deterministic}


def _may_search(device_type: str) -> bool:
    return device_type == "cuda" and not torch.are_deterministic_algorithms_enabled()
