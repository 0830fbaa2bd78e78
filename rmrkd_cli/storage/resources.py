"""What there is room for in memory, on a disk, and on the processor, before something large is begun."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rmrkd_cli.errors import RmrkdError

_KEPT_FREE = 0.1  # of what is there
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_VERSIONS = (  # of control groups, which containers and job schedulers limit memory with: v2, and v1
    ("", Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    ("memory", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def check_fits(what: str, needed: int, free: int, where: str, hint: str) -> None:
    """Raises RmrkdError with both sizes unless `needed` bytes leave a tenth of the `free` ones."""
    if needed > free * (1 - _KEPT_FREE):
        raise RmrkdError(
            f"{what} take {needed / 1e9:.2f} GB; {where} has {free / 1e9:.2f} GB free, of which a tenth must stay so",
            hint,
        )


def available_memory() -> int:
    """Bytes that can be taken without swapping, by Linux's own estimate, within the limits of this process's groups."""
    available = _fields(_MEMINFO)["MemAvailable:"] * 1024
    for controller, root, limit, used, reclaimable in _VERSIONS:
        for folder in _groups(controller, root):
            try:
                allowed = int((folder / limit).read_text()) - int((folder / used).read_text())
                available = min(available, allowed + _fields(folder / "memory.stat")[reclaimable])
            except (OSError, ValueError, KeyError):  # not this version, or no limit ("max")
                continue
    return max(available, 0)


def allowed_cores() -> float | None:
    """Processor time that the groups of this process may take, in cores; None without a limit."""
    limits = []
    for folder in _groups("", Path("/sys/fs/cgroup")):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            limits.append(int(quota) / int(period))
    for folder in _groups("cpu", Path("/sys/fs/cgroup/cpu")):
        with suppress(OSError, ValueError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _groups(controller: str, root: Path) -> list[Path]:
    """The folder of this process's group and of all above it; in a container the root alone is there."""
    try:
        lines = [line.split(":", 2) for line in _OWN_GROUPS.read_text().splitlines()]
    except OSError:
        lines = []
    own = [path for _, controllers, path in lines if controller in controllers.split(",")]
    folder = root / own[0].strip("/") if own else root
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}
