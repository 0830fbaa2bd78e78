"""The network that separates a teacher's logits from a student's."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from rmrkd_cli.losses._functional import attend

MIN_SIDE = 64  # positions: halved four times they are the 4 that the last convolution needs
_WIDTHS = (64, 128, 256, 512)
_WITH_ATTENTION = (256, 512)


class Discriminator(nn.Module):
    """Score maps of logits: the higher, the more they look like the teacher's.

    Source: CIRKD (winycg/CIRKD at dab64db), `utils/sagan.py`: batch norm of the logits, four convolutions under
    spectral norm that halve the map, self-attention (Zhang et al., "Self-Attention Generative Adversarial Networks",
    ICML 2019) behind the last two of them, and one without padding for the score. It takes logits without a softmax,
    and not the image.

    Spectral norm is torch's: its vectors take one power iteration at every call in training mode, as in the source.
    They start after fifteen iterations at construction; the source's start random.

    Args:
        channels: K, the channels of the logits.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        stages: list[nn.Module] = []
        for before, after in pairwise((channels, *_WIDTHS)):
            stages += [spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.1, inplace=True)]
            stages += [SelfAttention(after)] if after in _WITH_ATTENTION else []
        self.stages = nn.Sequential(*stages)
        self.score = nn.Conv2d(_WIDTHS[-1], 1, 4)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, K, H, W), H and W at least `MIN_SIDE`, to (B, 1, H', W'), H' = H // 16 - 3."""
        scores: Tensor = self.score(self.stages(self.norm(logits)))
        return scores


class SelfAttention(nn.Module):
    """Add to every position a weighted mean of all positions' values, with a learned factor that starts at 0.

    Unlike a transformer's, the products of queries and keys are not divided by the root of their width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        query, key, value = (_rows(layer(maps)) for layer in (self.query, self.key, self.value))
        attended = attend(query, key, value, scale=1.0)
        return maps + self.gamma * attended.squeeze(1).mT.reshape(maps.shape)


def _rows(maps: Tensor) -> Tensor:
    """(B, C, H, W) to (B, 1, P, C): one head."""
    return maps.flatten(2).mT.unsqueeze(1)
