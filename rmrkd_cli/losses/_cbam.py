"""CBAM: attention over channels, then over positions, that rescales a feature map."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

_REDUCTION = 16  # channels to hidden units of the channel gate
_WINDOW = 7  # positions a side that the gate of a position sees
_MOMENTUM = 0.01  # of the batch norm


class CBAM(nn.Module):
    """Source: S. Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, with AttnFD's layers.

    AttnFD: AmirMansurian/AttnFD at f090bbe, `cbam.py`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.conv = nn.Conv2d(2, 1, _WINDOW, padding=_WINDOW // 2, bias=False)
        nn.init.normal_(self.conv.weight, std=sqrt(2 / self.conv.weight[0, 0].numel()))
        self.norm = nn.BatchNorm2d(1, momentum=_MOMENTUM)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, C, H, W) times both gates."""
        gate = self.mlp(maps.mean((2, 3))) + self.mlp(maps.amax((2, 3)))
        maps = maps * gate.sigmoid()[:, :, None, None]
        places: Tensor = self.norm(self.conv(_over_channels(maps)))
        return maps * places.sigmoid()


class PlainCBAM(nn.Module):
    """CBAM without weights: each gate is the sigmoid of mean plus maximum."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, C, H, W) times both gates."""
        maps = maps * (maps.mean((2, 3)) + maps.amax((2, 3))).sigmoid()[:, :, None, None]
        return maps * _over_channels(maps).sum(1, keepdim=True).sigmoid()


def _over_channels(maps: Tensor) -> Tensor:
    """Return maximum and mean over the channels, (B, 2, H, W)."""
    return torch.stack([maps.amax(1), maps.mean(1)], 1)
