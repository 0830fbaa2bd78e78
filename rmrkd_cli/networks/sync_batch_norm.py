"""Batch norm over the images of all GPUs, as `torch.nn.SyncBatchNorm`, without waiting for the GPU.

torch's own removes the statistics of processes whose batch is empty. How many are left is a number that the host must
read: three waits a layer, 84 a step of a ResNet. Here no batch is empty.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

M = TypeVar("M", bound=nn.Module)


class SyncBatchNorm(nn.SyncBatchNorm):
    """`torch.nn.SyncBatchNorm` for batches that are never empty; the same numbers, parameters and state dict.

    Attributes:
        not_broadcast: Buffers that are equal in every process already, so DDP need not send them.
    """

    not_broadcast = ("running_mean", "running_var", "num_batches_tracked")

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, ...) to the same shape; B is at least 1 in every process."""
        group = self.process_group or (dist.group.WORLD if dist.is_available() and dist.is_initialized() else None)
        if not self.training or group is None or dist.get_world_size(group) == 1 or not features.numel():
            result: Tensor = super().forward(features)
            return result
        running: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            running = (self.running_mean, self.running_var)
        normalized: Tensor = _Normalize.apply(features, self.weight, self.bias, running, self.eps, self.momentum, group)
        return normalized


def replace_sync_batch_norm(network: M) -> M:
    """Turn each `torch.nn.SyncBatchNorm` of a network into the class above, in place, and return the network.

    A layer with a cumulative average (`momentum: null`) stays torch's.
    """
    for module in network.modules():
        is_torchs = isinstance(module, nn.SyncBatchNorm) and type(module).forward is nn.SyncBatchNorm.forward
        if is_torchs and module.momentum is not None:
            module.__class__ = SyncBatchNorm
    return network


class _Normalize(Function):
    """The kernels of torch's SyncBatchNorm."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor | None, bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None], eps: float, momentum: float, group: Any,
    ) -> Tensor:  # fmt: skip
        features = _dense(features)
        channels, positions = features.shape[1], features.numel() // features.shape[1]
        mean, inverse = torch.batch_norm_stats(features, eps)
        own = torch.cat([mean, inverse, mean.new_full((1,), positions)])
        means, inverses, counts = torch.split(_gather(own, group), [channels, channels, 1], dim=1)
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            features, means, inverses, *running, momentum, eps, counts.flatten()
        )
        ctx.save_for_backward(features, weight, mean, inverse, counts.to(torch.int32))
        ctx.group = group
        return torch.batch_norm_elemt(features, weight, bias, mean, inverse, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, inverse, counts = ctx.saved_tensors
        gradient = _dense(gradient)
        sum_gradient, sum_product, to_weight, to_bias = torch.batch_norm_backward_reduce(
            gradient, features, mean, inverse, weight, *ctx.needs_input_grad[:3]
        )
        to_features = None
        if ctx.needs_input_grad[0]:
            sums = torch.cat([sum_gradient, sum_product])
            dist.all_reduce(sums, group=ctx.group)
            sum_gradient, sum_product = sums.chunk(2)
            to_features = torch.batch_norm_backward_elemt(
                gradient, features, mean, inverse, weight, sum_gradient, sum_product, counts
            )
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        return to_features, to_weight if needs_weight else None, to_bias if needs_bias else None, None, None, None, None


def _dense(maps: Tensor) -> Tensor:
    """Return maps that are contiguous, or channels-last as they are."""
    return maps if maps.is_contiguous(memory_format=torch.channels_last) else maps.contiguous()


def _gather(vector: Tensor, group: Any) -> Tensor:
    """Return the vectors of all processes as rows."""
    rows = vector.new_empty(dist.get_world_size(group), len(vector))
    if dist.get_backend(group) == "gloo":
        dist.all_gather(list(rows.unbind()), vector, group=group)
    else:
        dist.all_gather_into_tensor(rows, vector, group=group)
    return rows
