"""Choose the device, and the number of worker processes on this machine."""

from __future__ import annotations

import os
import socket

import torch

from rmrkd_cli.errors import RmrkdError

BACKEND = "RMRKD_PROCESS_GROUP"  # environment variable, see `forced_backend`


def choose_device(wanted: str, workers: int | None) -> tuple[str, int]:
    """Return the device kind, "cpu" or "cuda", and the number of worker processes on this machine.

    Args:
        wanted: "auto", "cpu" or "cuda".
        workers: Value of `--gpus`; None means one. A command without `--gpus` passes None: no message names it then.

    Raises:
        RmrkdError: When `wanted` is "cuda" without a GPU, or `--gpus` is larger than the number of GPUs.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = workers or 1
    if wanted == "cpu":
        return "cpu", count
    if wanted == "auto" and not available and count == 1:
        return "cpu", 1
    shared_gpus = available > 0 and forced_backend("cuda") == "gloo"
    if workers is None and not available:
        raise RmrkdError("--device cuda: torch finds no GPU on this machine", "--device cpu, or rmrkd doctor")
    if count > available and not shared_gpus:
        raise RmrkdError(
            f"--gpus {count}: this machine has {available} GPU(s)",
            f"--gpus {available}" if available else f"--device cpu --gpus {min(count, os.cpu_count() or 1)}",
        )
    return "cuda", count


def choose_external_device(wanted: str, workers: int) -> str:
    """Return the device kind of the workers that another launcher has started; "auto" is "cpu" without any GPU.

    Args:
        wanted: "auto", "cpu" or "cuda".
        workers: Of them on this machine.

    Raises:
        RmrkdError: When there are fewer GPUs than workers.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not available):
        return "cpu"
    one_each = available == 1  # schedulers often show each worker its own GPU alone; `process_group` compares them
    if workers > available and not one_each and not (available and forced_backend("cuda") == "gloo"):
        raise RmrkdError(
            f"another launcher has started {workers} worker(s) on this machine, which has {available} GPU(s)",
            f"torchrun --nproc_per_node {available}, or --device cpu" if available else "--device cpu",
        )
    return "cuda"


def forced_backend(device: str) -> str | None:
    """Return the backend in the environment variable RMRKD_PROCESS_GROUP, "nccl" or "gloo"; None if it is not set.

    It is for tests of the GPU path. One worker then uses a process group, DDP and SyncBN too. With gloo several
    workers can share a GPU, which NCCL refuses.

    Args:
        device: "cpu" or "cuda".

    Raises:
        RmrkdError: For another value, or NCCL on CPUs.
    """
    backend = os.environ.get(BACKEND, "")
    if not backend:
        return None
    if backend not in ("nccl", "gloo"):
        raise RmrkdError(f"{BACKEND}={backend}: allowed are nccl and gloo", f"unset {BACKEND}")
    if backend == "nccl" and device == "cpu":
        raise RmrkdError(f"{BACKEND}=nccl needs GPUs, but the device is cpu", f"{BACKEND}=gloo")
    return backend


def own_device(device: str, local_rank: int) -> torch.device:
    """Return the device of the worker with this number on its machine.

    Raises:
        RmrkdError: When there is no GPU for it.
    """
    if device == "cpu":
        return torch.device("cpu")
    available = torch.cuda.device_count()
    if available and forced_backend(device) == "gloo":
        return torch.device("cuda", local_rank % available)
    if available == 1:  # schedulers often show each worker its own GPU alone
        return torch.device("cuda", 0)
    if local_rank >= available:
        raise RmrkdError(
            f"worker {local_rank} of this machine ({socket.gethostname()}) has no GPU: {available} GPU(s) are visible",
            "start one worker for each GPU, or use --device cpu",
        )
    return torch.device("cuda", local_rank)
