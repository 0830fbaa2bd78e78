"""The device: its name, the peak memory of this process, and the load by other processes."""

from __future__ import annotations

import os
import time

import torch

from rmrkd_cli.storage.resources import assigned_cores


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


class CoresInUse:
    """Measures how many cores other processes use from its creation on."""

    def __init__(self) -> None:
        self.cores = assigned_cores()
        self._start = self._clocks()

    def measure(self) -> dict[str, float]:
        """Return `cores` of this process, and `cores_of_others`: the average number that other processes used.

        Without Linux's counters the load average of the last minute stands in for it, as far as it exceeds the cores.
        """
        now = self._clocks()
        if now is None or self._start is None:
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
            others = load - self.cores
        else:
            wall, own, busy = (new - old for new, old in zip(now, self._start, strict=True))
            others = (busy - own) / max(wall, 1e-3)
        return {"cores": self.cores, "cores_of_others": round(min(max(others, 0.0), float(self.cores)), 2)}

    def _clocks(self) -> tuple[float, float, float] | None:
        """Return seconds of: the wall clock, this process on its cores, and everything that ran on these cores."""
        times = os.times()
        try:
            usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            tick = os.sysconf("SC_CLK_TCK")
            with open("/proc/stat") as stream:
                lines = [line.split() for line in stream]
            # user, nice, system, idle, iowait, irq, softirq, steal
            busy = [sum(map(int, (*line[1:4], *line[6:9]))) for line in lines if line[0] in usable]
        except (OSError, AttributeError, ValueError, IndexError):
            return None
        return (time.monotonic(), times.user + times.system, sum(busy) / tick) if busy else None
