"""Where the positions of a map of logits lie in an image, and bilinear sampling between them.

Coordinates are those of pixel centres: pixel 0 is at 0. A map covers a length of pixels by its positions in one of the
two ways in which `torch.nn.functional.interpolate` resizes it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Coordinates = NDArray[np.float64]


class Axis(NamedTuple):
    """One side of a map.

    Attributes:
        positions: Of the map.
        pixels: That the map covers.
        align_corners: The first and the last position lie on the first and the last pixel.
    """

    positions: int
    pixels: int
    align_corners: bool

    def to_pixels(self, positions: Coordinates) -> Coordinates:
        """Return the pixel coordinate of each position."""
        if self.align_corners:
            return positions * ((self.pixels - 1) / max(self.positions - 1, 1))
        return (positions + 0.5) * (self.pixels / self.positions) - 0.5

    def to_positions(self, pixels: Coordinates) -> Coordinates:
        """Return where on the map each pixel coordinate lies."""
        if self.align_corners:
            return pixels * ((self.positions - 1) / max(self.pixels - 1, 1))
        return (pixels + 0.5) * (self.positions / self.pixels) - 0.5


def resized(pixels: Coordinates, source: int, target: int) -> Coordinates:
    """Return the coordinates in an image that was resized from `source` to `target` pixels."""
    return (pixels + 0.5) * (target / source) - 0.5


def sample(maps: Tensor, rows: Coordinates, columns: Coordinates) -> Tensor:
    """Return the bilinear values (..., h, w), float32, of maps (..., H, W) at h rows and w columns.

    Beyond the border, the value is that of the border.
    """
    device = maps.device
    low, high, down = (part.to(device) for part in _neighbours(rows, maps.shape[-2]))
    left, right, across = (part.to(device) for part in _neighbours(columns, maps.shape[-1]))
    if device.type == "cpu" and maps.dtype == torch.float16:  # convert only what is used
        top, start = int(low.min()), int(left.min())
        maps = maps[..., top : int(high.max()) + 1, start : int(right.max()) + 1]
        low, high, left, right = low - top, high - top, left - start, right - start
    maps = maps.float()
    lines = torch.lerp(maps.index_select(-2, low), maps.index_select(-2, high), down[:, None])
    return torch.lerp(lines.index_select(-1, left), lines.index_select(-1, right), across)


def _neighbours(coordinates: Coordinates, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions before and after each coordinate, and how far it is from the first, 0 to 1."""
    inside = coordinates.clip(0, count - 1)
    before = np.floor(inside)
    after = np.minimum(before + 1, count - 1)
    indices = (torch.from_numpy(part.astype(np.int64)) for part in (before, after))
    return (*indices, torch.from_numpy((inside - before).astype(np.float32)))  # type: ignore[return-value]
