"""Measure free memory and the CPU limit of this process, within the limits of its container or batch job."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rmrkd_cli.errors import RmrkdError

_RESERVE = 0.1  # share of the free bytes that stays free
_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUPS = (  # control groups, by which containers and job schedulers limit memory: version 2, version 1
    ("", Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    ("memory", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def require_space(what: str, needed: int, free: int, where: str, hint: str) -> None:
    """Raise RmrkdError, with both sizes, unless a tenth of the `free` bytes stays free beside the `needed` ones."""
    if needed > free * (1 - _RESERVE):
        raise RmrkdError(
            f"{what} need {needed / 1e9:.2f} GB; {where} has {free / 1e9:.2f} GB free, and a tenth must stay free",
            hint,
        )


def available_memory() -> int:
    """Return the bytes that can be allocated without swapping, by Linux's estimate and the limits of the container.

    Raises:
        OSError: The system is not Linux.
    """
    available = _fields(_MEMINFO)["MemAvailable:"] * 1024
    for controller, root, limit, used, reclaimable in _CGROUPS:
        for folder in _cgroup_folders(controller, root):
            try:
                allowed = int((folder / limit).read_text()) - int((folder / used).read_text())
                available = min(available, allowed + _fields(folder / "memory.stat")[reclaimable])
            except (OSError, ValueError, KeyError):  # another version of control groups, or no limit ("max")
                continue
    return max(available, 0)


def cpu_limit() -> float | None:
    """Return the CPU time that the container may use, in cores; None without a limit."""
    limits = []
    for folder in _cgroup_folders("", Path("/sys/fs/cgroup")):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            limits.append(int(quota) / int(period))
    for folder in _cgroup_folders("cpu", Path("/sys/fs/cgroup/cpu")):
        with suppress(OSError, ValueError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                limits.append(int(quota) / int(period))
    return min(limits, default=None)


def usable_cores() -> int:
    """Return the cores that this process may use, by its affinity and the limit of its container."""
    count = assigned_cores()
    return max(1, min(count, int(cpu_limit() or count)))


def assigned_cores() -> int:
    """Return the cores that this process may run on, whatever share of their time its container has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_folders(controller: str, root: Path) -> list[Path]:
    """Return the folders of this process's control group and its parents; a container sees only the root."""
    try:
        lines = [line.split(":", 2) for line in _OWN_CGROUPS.read_text().splitlines()]
    except OSError:
        lines = []
    own = [path for _, controllers, path in lines if controller in controllers.split(",")]
    folder = root / own[0].strip("/") if own else root
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}
