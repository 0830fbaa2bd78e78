"""Worker processes: who am I, which device, and what the others say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError


@dataclass(frozen=True)
class World:
    """This worker's place among all of them."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all workers, on every worker."""
        if self.size == 1:
            return tensor
        moved = tensor.to(self.device)
        dist.all_reduce(moved)
        return moved

    def any(self, flag: bool | int) -> int:
        """The largest flag of all workers, so that all of them act on it at the same step."""
        if self.size == 1:
            return int(flag)
        shared = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared.item())

    def all(self, flag: bool | int) -> bool:
        """Whether the flag is set on every worker."""
        return not self.any(not flag)

    def share_buffers(self, module: nn.Module) -> None:
        """Gives every worker the first one's batch-norm statistics."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def choose_device(wanted: str, workers: int | None) -> tuple[str, int]:
    """The device kind and the number of worker processes on this machine.

    Args:
        wanted: "auto", "cpu" or "cuda".
        workers: As asked for with `--gpus`; none means one.

    Raises:
        RmrkdError: When more GPUs are asked for than there are.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu":
        return "cpu", workers or 1
    if wanted == "cuda" or available or (workers or 1) > 1:
        if (workers or 1) > available:
            raise RmrkdError(
                f"{workers or 1} GPU(s) asked for, this machine has {available}",
                f"--gpus {available}" if available else f"--device cpu --gpus {min(workers or 1, os.cpu_count() or 1)}",
            )
        return "cuda", workers or 1
    return "cpu", 1


@contextmanager
def world(device: str) -> Iterator[World]:
    """Joins the process group that torch's launcher describes in the environment; alone where it started nothing.

    After an error the group is left as it is: to take it down would wait for workers that wait for this one.
    """
    launched = os.environ if "TORCHELASTIC_RUN_ID" in os.environ else {}
    size, rank = int(launched.get("WORLD_SIZE", "1")), int(launched.get("RANK", "0"))
    local = int(launched.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    elif size > 1:
        on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // on_machine))
    if size > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    yield World(rank, size, place)
    if size > 1:
        dist.destroy_process_group()
