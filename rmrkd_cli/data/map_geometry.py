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
    used_rows, down = _neighbours(rows, maps.shape[-2])
    used_columns, across = _neighbours(columns, maps.shape[-1])
    maps = maps[..., used_rows.range, used_columns.range].float()  # convert only what is used
    low, high, left, right, down, across = (
        part.to(maps.device)
        for part in (used_rows.before, used_rows.after, used_columns.before, used_columns.after, down, across)
    )
    lines = torch.lerp(maps.index_select(-2, low), maps.index_select(-2, high), down[:, None])
    return torch.lerp(lines.index_select(-1, left), lines.index_select(-1, right), across)


class _Used(NamedTuple):
    """The positions between which coordinates lie.

    Attributes:
        range: From the first to the last of them.
        before, after: Of each coordinate, counted from the start of the range.
    """

    range: slice
    before: Tensor
    after: Tensor


def _neighbours(coordinates: Coordinates, count: int) -> tuple[_Used, Tensor]:
    """Return the positions around each coordinate, and how far it is from the one before, 0 to 1."""
    inside = np.minimum(np.maximum(coordinates, 0), count - 1)
    before = inside.astype(np.int64)
    after = np.minimum(before + 1, count - 1)
    start = int(before.min())
    used = _Used(slice(start, int(after.max()) + 1), torch.from_numpy(before - start), torch.from_numpy(after - start))
    return used, torch.from_numpy((inside - before).astype(np.float32))
