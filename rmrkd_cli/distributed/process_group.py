"""The process group: this worker's rank and device, and the collective operations between workers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.distributed.coordination import Coordinator, current_coordinator
from rmrkd_cli.distributed.device import forced_backend, own_device
from rmrkd_cli.distributed.network_interface import local_interface
from rmrkd_cli.errors import RmrkdError

T = TypeVar("T")
NODE_RANK = "RMRKD_NODE_RANK"  # environment variable: the launcher passes --node-rank to its workers
_JOIN_TIMEOUT = timedelta(minutes=5)  # the launcher starts all workers at the same moment


@dataclass(frozen=True)
class DistContext:
    """This worker's rank, the number of workers, and the collective operations between them.

    With one worker and no process group every operation returns its argument.

    Attributes:
        rank: 0 .. size - 1.
        size: Workers on all machines.
        control_group: A gloo group for flags and Python objects, so that these do not wait for a GPU.
        local_size: Workers on this machine.
    """

    rank: int
    size: int
    device: torch.device
    control_group: dist.ProcessGroup | None = None
    local_size: int = 1

    @property
    def is_rank0(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no process group; one worker can have one, see `forced_backend`."""
        return self.size == 1 and self.control_group is None

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all workers."""
        if self.alone:
            return tensor
        moved = tensor.to(self.device)
        dist.all_reduce(moved)
        return moved

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        """Return the maximum over all workers of each value, so that all workers act on it in the same step."""
        if self.alone:
            return tuple(int(value) for value in values)
        shared = torch.tensor([int(value) for value in values])
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self.control_group)
        return tuple(shared.tolist())

    def all_reduce_and(self, flag: bool) -> bool:
        """Return True if the flag is set on every worker."""
        return not self.all_reduce_max(not flag)[0]

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all workers in the order of ranks."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control_group)
        return values

    def broadcast_from_rank0(self, compute: Callable[[], T]) -> T:
        """Call a function on rank 0 and return its result on every worker."""
        if self.alone:
            return compute()
        box: list[Any] = [compute() if self.is_rank0 else None]
        dist.broadcast_object_list(box, src=0, group=self.control_group)
        return cast("T", box[0])

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copy the buffers of rank 0, such as batch-norm statistics, to every worker."""
        if not self.alone:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        """Wait until every worker reaches this barrier."""
        if not self.alone:
            dist.barrier(group=self.control_group)

    def wrap_ddp(self, model: nn.Module, *, find_unused_parameters: bool = False) -> nn.Module:
        """Return the model in DistributedDataParallel; the model itself without a process group.

        DDP broadcasts buffers before each forward pass, except those that a module lists in `not_broadcast`. These
        are equal on every worker anyway, and a memory bank has hundreds of megabytes.

        Args:
            find_unused_parameters: Search each step for parameters without a gradient, which are an error otherwise.
        """
        if self.alone:
            return model
        ignored = [
            f"{path}.{name}" for path, module in model.named_modules() for name in getattr(module, "not_broadcast", ())
        ]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)  # type: ignore[no-untyped-call]
        # The strides of a 1x1 kernel are ambiguous in channels-last; torch warns once in each worker, and copies.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=find_unused_parameters)


@contextmanager
def distributed_context(device: str) -> Iterator[DistContext]:
    """Join the process group that a launcher describes in the environment; without a launcher, use one worker.

    Under another launcher one process group serves all jobs of this process.

    After an error the process group stays open: closing it would wait for workers that wait for this one.

    Args:
        device: "cpu" or "cuda".
    """
    if (coordinator := current_coordinator()) is not None:
        coordinator.context = coordinator.context or _join_external(coordinator, device)
        yield coordinator.context
        return
    launched = os.environ if "TORCHELASTIC_RUN_ID" in os.environ else {}
    size, local_rank = int(launched.get("WORLD_SIZE", "1")), int(launched.get("LOCAL_RANK", "0"))
    local_size = int(launched.get("LOCAL_WORLD_SIZE", "1"))
    rank = int(launched.get(NODE_RANK, launched.get("GROUP_RANK", "0"))) * local_size + local_rank
    this_device = prepare_device(device, local_rank, local_size)
    backend = forced_backend(device)
    if size == 1 and backend is None:
        yield DistContext(rank, size, this_device)
        return
    backend = backend or ("nccl" if device == "cuda" else "gloo")
    if size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        try:
            yield DistContext(rank, size, this_device, control_group(backend))
        finally:
            dist.destroy_process_group()
        return
    _init_process_group(rank, size, backend)
    yield DistContext(rank, size, this_device, control_group(backend), local_size)
    dist.destroy_process_group()


def _join_external(coordinator: Coordinator, device: str) -> DistContext:
    """Join the process group of another launcher's workers."""
    worker = coordinator.worker
    members = coordinator.members
    own = prepare_device(device, coordinator.local_rank, coordinator.local_size)
    backend = forced_backend(device) or ("nccl" if device == "cuda" else "gloo")
    if coordinator.machines > 1 and "GLOO_SOCKET_IFNAME" not in os.environ:
        interface = local_interface(worker.host, worker.port)
        if interface:
            os.environ["GLOO_SOCKET_IFNAME"] = interface  # gloo's default is the address of the host name
    store = dist.PrefixStore("group", coordinator.connect())  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=worker.rank, world_size=worker.size)
    context = DistContext(worker.rank, worker.size, own, control_group(backend), coordinator.local_size)
    if backend == "nccl":
        gpus = context.all_gather((worker.machine, str(torch.cuda.get_device_properties(own).uuid)))
        twice = next((rank for rank, gpu in enumerate(gpus) if gpu in gpus[:rank]), None)
        if twice is not None:
            raise RmrkdError(
                f"workers {gpus.index(gpus[twice])} and {twice} on {members[twice].host} use the same GPU",
                "start one worker for each GPU; if LOCAL_RANK is set for all, show each worker all GPUs of its machine",
            )
    return context


def prepare_device(device: str, local_rank: int, local_size: int) -> torch.device:
    """Select this worker's GPU, or share the CPU's cores among the workers of this machine; return the device."""
    chosen = own_device(device, local_rank)
    if device == "cuda":
        torch.cuda.set_device(chosen)
    elif local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    return chosen


def control_group(backend: str) -> dist.ProcessGroup:
    """Return a gloo group of all workers: the default one, or a new one beside NCCL."""
    group = dist.new_group(backend="gloo") if backend != "gloo" else dist.group.WORLD
    return cast("dist.ProcessGroup", group)


def _init_process_group(rank: int, size: int, backend: str) -> None:
    """Connect to the other workers.

    torch's launcher numbers machines by address and process, so the numbers change when a machine restarts. Ranks
    follow `--node-rank` instead. Only the worker with torch's rank 0 hosts the store.
    """
    environment = os.environ
    hosts_store = int(environment["RANK"]) == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    store = dist.TCPStore(host, port, size, is_master=hosts_store, timeout=_JOIN_TIMEOUT)  # type: ignore[attr-defined]
    if rank >= size or store.add(f"rmrkd/rank/{rank}", 1) > 1:
        raise RmrkdError(
            f"two workers have rank {rank} of 0..{size - 1}",
            "start every machine with its own --node-rank, and all machines with the same --gpus",
        )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
