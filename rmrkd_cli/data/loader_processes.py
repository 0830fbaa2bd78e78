"""How many processes read images for a worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rmrkd_cli.storage.resources import usable_cores

ON_CPU = 2  # where the networks need the cores themselves
MAX_PROCESSES = 16
_WAITING_ITEMS = 3  # of each process: one it makes, two that wait
_SHARED_MEMORY = Path("/dev/shm")
_SHARE = 0.5  # of the free shared memory, which other programs use too


Wanted = int | Literal["auto"]


def count_loader_processes(wanted: Wanted, *, on_gpu: bool, local_workers: int, item_bytes: int = 0) -> int:
    """Return the number of processes that read images for one worker.

    "auto" takes all cores that this process may use, shared by the workers of the machine, but one for each worker
    itself. On CPUs it is at most two. It also fits into the shared memory, which containers limit.

    Args:
        on_gpu: The worker uses a GPU.
        local_workers: Workers on this machine.
        item_bytes: Size of what a process passes on at a time: a batch, or an image.
    """
    if wanted != "auto":
        return wanted
    cores = usable_cores() // local_workers
    count = min(cores - 1, MAX_PROCESSES) if on_gpu else min(cores, ON_CPU)
    if item_bytes and _SHARED_MEMORY.is_dir():
        status = os.statvfs(_SHARED_MEMORY)
        free = _SHARE * status.f_bavail * status.f_frsize
        count = min(count, int(free / (item_bytes * _WAITING_ITEMS * local_workers)))
    return max(count, 1)


def evaluation_bytes(size: tuple[int, int], scales: Sequence[float] = (1.0,), *, flip: bool = False) -> int:
    """Return the size of an evaluation image that fills (width, height), with its views and labels."""
    views = sum(scale**2 for scale in scales) * (2 if flip else 1)
    return round(size[0] * size[1] * (3 * 4 * views + 8))
