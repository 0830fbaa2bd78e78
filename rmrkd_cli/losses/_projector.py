"""What CIRKD learns beside the student: a projector to the teacher's channels, and a block that adds context."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rmrkd_cli.losses._functional import attend
from rmrkd_cli.losses._relations import to_rows


def make_projector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """Return two 1x1 convolutions without bias to the teacher's channels, batch norm and ReLU between them."""
    return nn.Sequential(
        *_conv_norm_relu(student_channels, teacher_channels),
        nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
    )


class ContextBlock(nn.Module):
    """Add to each position what all positions of its image hold, by their similarity to it.

    Source: CIRKD `losses/gcn.py` at dab64db, which calls it a GCN: attention of one head with C / 2 channels.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1, bias=False) for _ in range(3))
        self.context = _conv_norm_relu(inner, channels)
        self.merge = _conv_norm_relu(2 * channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, C, H, W) of the same shape."""
        query, key, value = (to_rows(layer(maps)).unsqueeze(1) for layer in (self.query, self.key, self.value))
        attended = attend(query, key, value).squeeze(1).mT
        context = self.context(attended.reshape(*attended.shape[:2], *maps.shape[2:]))
        merged: Tensor = self.merge(torch.cat([maps, context], dim=1))
        return merged


def _conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), _make_batch_norm(outputs), nn.ReLU(inplace=True))


def _make_batch_norm(channels: int) -> nn.Module:
    """Return batch norm over all GPUs of a distributed run, or over this process's images elsewhere."""
    if dist.is_available() and dist.is_initialized() and "nccl" in dist.get_backend():
        return nn.SyncBatchNorm(channels)
    return nn.BatchNorm2d(channels)
