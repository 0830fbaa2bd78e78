"""What two processes remember together; `test_memory_ranks.py` runs it in each, with a folder and the rank."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rmrkd_cli.distributed.process_group import DistContext
from rmrkd_cli.losses import CIRKDChannelLoss, CIRKDMemoryLoss

K, STEPS = 5, 3
OPTIONS = {"pixel_queue": 50, "region_queue": 7, "pixel_samples": 100, "region_samples": 20, "pixels_pushed": 4}


def make() -> CIRKDMemoryLoss:
    torch.manual_seed(0)
    return CIRKDMemoryLoss(3, 4, K, **OPTIONS)


def make_channels() -> CIRKDChannelLoss:
    torch.manual_seed(0)
    return CIRKDChannelLoss(3, 4, (4, 5), channel_queue=20, channel_samples=15, channels_pushed=7)


def batch(step: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two images: one more class at each step in the first process; all in the second, and none at its second step."""
    draw = torch.Generator().manual_seed(10 * step + rank)
    student, teacher = (torch.randn(2, channels, 4, 5, generator=draw) for channels in (3, 4))
    labels = torch.randint(0, step + 1 if rank == 0 else K, (2, 1, 4, 5), generator=draw)
    return student, teacher, labels.fill_(255) if (step, rank) == (1, 1) else labels


def steps(dist_ctx: DistContext, loss: CIRKDMemoryLoss, numbers: range) -> list[Tensor]:
    """Values, under DDP; the processes' own random numbers differ."""
    wrapped = dist_ctx.wrap_ddp(loss)
    values = []
    for step in numbers:
        torch.manual_seed(100 * dist_ctx.rank + step)
        value = wrapped(*batch(step, dist_ctx.rank))
        value.backward()
        values.append(value.detach())
    return values


def main(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    dist_ctx, loss = DistContext(rank, 2, torch.device("cpu")), make()
    results: dict[str, Any] = {
        "values": steps(dist_ctx, loss, range(STEPS)),
        "before": copy.deepcopy(loss.state_dict()),
    }
    results["values"] += steps(dist_ctx, loss, range(STEPS, STEPS + 1))
    resumed = make()
    torch.nn.init.zeros_(resumed.bank.pixels.vectors)
    resumed.load_state_dict(results["before"])
    results["again"] = steps(dist_ctx, resumed, range(STEPS, STEPS + 1))
    results |= {"end": loss.state_dict(), "resumed": resumed.state_dict()}
    results["gradients"] = [parameter.grad for parameter in loss.parameters()]
    for layout, name in ((torch.contiguous_format, "channels"), (torch.channels_last, "channels last")):
        channels = make_channels()
        for step in range(STEPS):
            channels(*(maps.contiguous(memory_format=layout) for maps in batch(step, rank)[:2]))
        results[name] = channels.bank.state_dict()
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
