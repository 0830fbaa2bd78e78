"""What the machine is and how much of its memory was used."""

from __future__ import annotations

import os

import torch


def peak_memory(device_type: str) -> int:
    """Bytes: the most a GPU's allocator held, or the process since its start on a CPU."""
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory(device_type: str) -> None:
    """Starts a new count on a GPU; a process's own cannot be taken back."""
    if device_type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def device_name(device: torch.device) -> str:
    """A GPU's model, or the number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {os.cpu_count()} cores"
