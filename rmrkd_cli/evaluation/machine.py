"""The name of the device, and the peak memory of this process."""

from __future__ import annotations

import os

import torch


def peak_memory(device_type: str) -> int:
    """Return the peak memory in bytes: allocated on the GPU, or resident in this process on a CPU."""
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory(device_type: str) -> None:
    """Reset the peak of a GPU; the peak of a process cannot be reset."""
    if device_type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, or the number of CPU cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {os.cpu_count()} cores"
