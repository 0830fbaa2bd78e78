"""Worker processes: who am I, which device, and what the others say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.errors import RmrkdError

T = TypeVar("T")
NODE_RANK = "RMRKD_NODE_RANK"  # this machine's number, told to its workers
_MEETING = timedelta(minutes=5)  # for workers that were all started at the same moment


@dataclass(frozen=True)
class DistContext:
    """This worker's place among all of them.

    Attributes:
        talk: The group in which workers agree on plain numbers: over gloo, so that no GPU is waited for.
    """

    rank: int
    size: int
    device: torch.device
    talk: dist.ProcessGroup | None = None

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

    def largest(self, *flags: int) -> tuple[int, ...]:
        """Each flag's largest value of all workers, so that all of them act on it at the same step."""
        if self.size == 1:
            return tuple(int(flag) for flag in flags)
        shared = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self.talk)
        return tuple(shared.tolist())

    def any(self, flag: bool | int) -> int:
        """The largest flag of all workers."""
        return self.largest(int(flag))[0]

    def all(self, flag: bool | int) -> bool:
        """Whether the flag is set on every worker."""
        return not self.any(not flag)

    def gather(self, value: T) -> list[T]:
        """Every worker's value, in the order of ranks, on every worker."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.talk)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first worker makes, on every worker."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.is_first else None]
        dist.broadcast_object_list(box, src=0, group=self.talk)
        made: T = box[0]
        return made

    def wrap(self, model: nn.Module, *, unused: bool = False) -> nn.Module:
        """The model with its gradients averaged over all workers.

        Buffers that a module lists in `not_broadcast` are the same on every worker by themselves, and are not sent
        before each forward pass as the others are: a loss's memory has hundreds of megabytes.

        Args:
            unused: Look in every step for parameters that had no part in it, which DDP takes for an error otherwise.
        """
        if self.size == 1:
            return model
        alike = [
            f"{path}.{name}" for path, module in model.named_modules() for name in getattr(module, "not_broadcast", ())
        ]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, alike)  # type: ignore[no-untyped-call]
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=unused)

    def share_buffers(self, module: nn.Module) -> None:
        """Gives every worker the first one's batch-norm statistics."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier(group=self.talk)


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
def world(device: str) -> Iterator[DistContext]:
    """Joins the process group that torch's launcher describes in the environment; alone where it started nothing.

    After an error the group is left as it is: to take it down would wait for workers that wait for this one.
    """
    launched = os.environ if "TORCHELASTIC_RUN_ID" in os.environ else {}
    size, local = int(launched.get("WORLD_SIZE", "1")), int(launched.get("LOCAL_RANK", "0"))
    on_machine = int(launched.get("LOCAL_WORLD_SIZE", "1"))
    rank = int(launched.get(NODE_RANK, launched.get("GROUP_RANK", "0"))) * on_machine + local
    place = torch.device("cuda", local) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    elif size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // on_machine))
    if size == 1:
        yield DistContext(rank, size, place)
        return
    _join(rank, size, "nccl" if device == "cuda" else "gloo")
    talk = dist.new_group(backend="gloo") if device == "cuda" else dist.group.WORLD
    yield DistContext(rank, size, place, cast("dist.ProcessGroup", talk))
    dist.destroy_process_group()


def _join(rank: int, size: int, backend: str) -> None:
    """Meets the other workers.

    torch's launcher numbers machines by address and process, so differently after a machine was started again; ranks
    follow `--node-rank` instead, and only the worker it calls the first holds the store where all meet.
    """
    launched = os.environ
    hosts = int(launched["RANK"]) == 0 and launched.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    place = launched["MASTER_ADDR"], int(launched["MASTER_PORT"])
    store = dist.TCPStore(*place, size, is_master=hosts, timeout=_MEETING)  # type: ignore[attr-defined]
    if rank >= size or store.add(f"rmrkd/rank/{rank}", 1) > 1:
        raise RmrkdError(
            f"more than one worker would have the rank {rank} of 0..{size - 1}",
            "give every machine its own --node-rank, and all of them the same --gpus",
        )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
