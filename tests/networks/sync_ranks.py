"""SyncBN in two processes; `test_sync_batch_norm.py` runs `main` in each, with a folder and the rank.

Its kernels exist on GPUs only. Here they are replaced by their formulas, for torch's own class too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm as TorchFunction

from rmrkd_cli.networks.sync_batch_norm import SyncBatchNorm

SHAPES = ((3, 4, 5, 6), (1, 4, 7, 2))  # of each process
ALL = (0, 2, 3)
EPS, MOMENTUM = 1e-5, 0.1


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, ALL, correction=0)
    return mean, (variance + eps).rsqrt()


def gather_stats(
    x: Tensor, means: Tensor, inverses: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    counts, total = counts[:, None], counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (counts * (inverses**-2 - eps + (means - mean) ** 2)).sum(0) / total
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def spread(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def elemt(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
    return (x - spread(mean)) * spread(inverse * weight) + spread(bias)


def backward_reduce(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, *_: bool
) -> tuple[Tensor, ...]:
    product = (gradient * (x - spread(mean))).sum(ALL)
    return gradient.sum(ALL), product, product * inverse, gradient.sum(ALL)


def backward_elemt(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, total: Tensor, product: Tensor,
    counts: Tensor,
) -> Tensor:  # fmt: skip
    count = counts.sum()
    along = spread(product * inverse**2 / count) * (x - spread(mean))
    return (gradient - spread(total / count) - along) * spread(inverse * weight)


def replace_kernels() -> None:
    kernels: Any = torch
    kernels.batch_norm_stats, kernels.batch_norm_gather_stats_with_counts = stats, gather_stats
    kernels.batch_norm_elemt = elemt
    kernels.batch_norm_backward_reduce, kernels.batch_norm_backward_elemt = backward_reduce, backward_elemt


def batch(rank: int) -> tuple[Tensor, Tensor]:
    """Features, and the gradient that arrives behind the layer."""
    draw = torch.Generator().manual_seed(rank)
    features, gradient = (torch.randn(SHAPES[rank], generator=draw) for _ in range(2))
    return 3 * features + rank, gradient


def layer() -> SyncBatchNorm:
    made = SyncBatchNorm(4, eps=EPS, momentum=MOMENTUM)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([0.5, 1.0, 2.0, -1.0]))
        made.bias.copy_(torch.arange(4.0))
    return made


def result(norm: SyncBatchNorm, rank: int, ours: bool) -> dict[str, Tensor]:
    features, gradient = batch(rank)
    features = features.to(memory_format=torch.channels_last).requires_grad_()
    if ours:
        out = norm(features)
    else:
        running = (norm.running_mean, norm.running_var)
        out = TorchFunction.apply(
            features, norm.weight, norm.bias, *running, EPS, MOMENTUM, dist.group.WORLD, 2
        )  # fmt: skip
    out.backward(gradient)
    return {
        "out": out.detach(), "features": features.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
        "running_mean": norm.running_mean, "running_var": norm.running_var,
    }  # fmt: skip


def main(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    replace_kernels()
    torch.save({"ours": result(layer(), rank, True), "torch": result(layer(), rank, False)}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
