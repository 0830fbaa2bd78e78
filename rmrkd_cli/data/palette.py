"""Colours for any number of classes: distinct for normal and colour-blind sight, and none near black or white.

Each colour is the one farthest from black, white and all earlier colours (the construction of Glasbey et al., Color
Research and Application 32, 2007). The distance of two colours is the smallest CIELAB distance (CIE 1976) for four
kinds of sight: normal, and protanopia, deuteranopia and tritanopia as simulated by Machado, Oliveira and Fernandes
(IEEE Transactions on Visualization and Computer Graphics 15, 2009). More classes keep the colours of fewer.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Palette = tuple[tuple[int, int, int], ...]
Floats = NDArray[np.float64]

_LEVELS = 16  # of red, green and blue that are tried
_LIGHTNESS = (38.0, 90.0)  # of 100: text on a colour and lines on a page stay visible
_FIXED = ((0, 0, 0), (255, 255, 255))
_SIGHTS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
_TO_XYZ = np.array(  # from linear sRGB, relative to the white of D65
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])


@lru_cache(maxsize=4)
def distinct_palette(count: int) -> Palette:
    """Return `count` RGB colours, at most as many as are tried (about 2,700)."""
    levels = np.linspace(0, 255, _LEVELS).round().astype(np.int64)
    tried = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lightness = _views(tried)[:, 0, 0]
    tried = tried[(lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1])]
    views = _views(tried)
    distance = np.full(len(tried), np.inf)
    for fixed in _views(np.array(_FIXED)):
        distance = np.minimum(distance, _distances(views, fixed))
    chosen: list[tuple[int, int, int]] = []
    for _ in range(count):
        farthest = int(distance.argmax())
        red, green, blue = tried[farthest].tolist()
        chosen.append((red, green, blue))
        distance = np.minimum(distance, _distances(views, views[farthest]))
    return tuple(chosen)


def _views(colours: NDArray[np.int64]) -> Floats:
    """Return the CIELAB coordinates (N, 4, 3) of colours (N, 3) for each sight."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.einsum("sij,nj->nsi", _SIGHTS, linear), 0, 1)
    xyz = seen @ _TO_XYZ.T
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _distances(views: Floats, one: Floats) -> Floats:
    distances: Floats = np.sqrt(((views - one) ** 2).sum(-1)).min(1)
    return distances
