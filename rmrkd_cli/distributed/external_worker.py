"""A worker that another launcher started. torchrun and most clusters describe it in the same environment variables."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from rmrkd_cli.distributed.worker_errors import ERRORS
from rmrkd_cli.errors import RmrkdError

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MAX_WORKERS = 1 << 16
_HINT = (
    "start it with `torchrun --nproc_per_node N -m rmrkd_cli …`, or remove the variables ({names}) and let rmrkd start "
    "its workers with --gpus N"
)


@dataclass(frozen=True, kw_only=True)
class ExternalWorker:
    """This process among the workers of another launcher.

    Attributes:
        rank: 0 .. size - 1.
        size: Workers on all machines, 2 or more.
        local_rank: Number of this worker on its machine; None if the launcher does not say.
        local_size: Workers on this machine; None if the launcher does not say.
        host, port: Where rank 0, or the launcher, opens the store.
        machine: Equal for all workers of a machine, and only for them.
        launcher_has_store: The launcher has opened the store already.
        attempt: How often the launcher has restarted the workers of this machine because one of them failed.
    """

    rank: int
    size: int
    local_rank: int | None
    local_size: int | None
    host: str
    port: int
    machine: str
    launcher_has_store: bool = False
    attempt: int = 0


def read_external_worker(environment: Mapping[str, str] = os.environ) -> ExternalWorker | None:
    """Return the worker that the variables describe; None without another launcher, or with a single worker.

    Raises:
        RmrkdError: When a variable is missing or invalid.
    """
    given = {name: environment[name] for name in _RANKS if environment.get(name)}
    if ERRORS in environment or not given:  # rmrkd's own launcher sets the first
        return None
    hint = _HINT.format(names=", ".join(given))
    for name in ("RANK", "WORLD_SIZE"):
        if name not in given:
            raise RmrkdError(f"{next(iter(given))} is set, but {name} is not: a launcher sets both", hint)
    size = _read_integer("WORLD_SIZE", given, range(1, _MAX_WORKERS), hint)
    rank = _read_integer("RANK", given, range(size), hint)
    if size == 1:
        return None
    local_size = local_rank = None
    if "LOCAL_WORLD_SIZE" in given:
        local_size = _read_integer("LOCAL_WORLD_SIZE", given, range(1, size + 1), hint)
    if "LOCAL_RANK" in given:
        local_rank = _read_integer("LOCAL_RANK", given, range(local_size or size), hint)
    elif local_size not in (None, 1):
        raise RmrkdError(f"LOCAL_WORLD_SIZE is {local_size}, but LOCAL_RANK is not set", hint)
    host, port = environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        name, value = ("MASTER_ADDR", host) if not host else ("MASTER_PORT", port)
        problem = f"{name}={value} is not a port" if value else f"{name} is not set"
        raise RmrkdError(f"RANK and WORLD_SIZE are set, but {problem}", hint)
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "")
    return ExternalWorker(
        rank=rank, size=size, local_rank=local_rank, local_size=local_size, host=host, port=int(port),
        machine=_machine(environment), launcher_has_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=int(attempt) if attempt.isdigit() else 0,
    )  # fmt: skip


def _read_integer(name: str, given: Mapping[str, str], allowed: range, hint: str) -> int:
    text = given[name]
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) not in allowed:
        raise RmrkdError(f"{name}={text} is not an integer from {allowed.start} to {allowed.stop - 1}", hint)
    return int(text)


def _machine(environment: Mapping[str, str]) -> str:
    """Return torchrun's number of this machine, else its name; containers can share a name, but not the processes."""
    if environment.get("GROUP_RANK"):
        return environment["GROUP_RANK"]
    name = socket.gethostname()
    with suppress(OSError):
        name += " " + os.readlink("/proc/self/ns/pid")
    return name
