"""Maps of classes: where two disagree, and where a class's number fits into it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.comparison.types import Difference

_SMALLEST = 0.012  # share of the image, from which on a class gets its number
_HATCH = 50  # stripes in the width
_FAR = 60  # between colours of 0 to 255, from which on two are told apart
_GROUNDS = ((0, 0, 0), (255, 255, 255), (224, 224, 192), (255, 0, 255), (0, 255, 255), (96, 96, 96))
_WON, _LOST, _OTHER = (0, 114, 178), (230, 130, 0), (120, 120, 120)

WIDEST = 640  # pixels

Image = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]


def pair_of(main: Difference | None, labels: Sequence[str]) -> tuple[str, str] | None:
    """Which two predictions are held against each other first."""
    if main is not None and main.base in labels and main.to in labels:
        return main.base, main.to
    return (labels[0], labels[1]) if len(labels) > 1 else None


def numbered(classes: Image, palette: Palette) -> list[tuple[int, int, int, bool]]:
    """(class, x, y, whether its colour is dark): the innermost point of every class that takes enough room."""
    import cv2

    counts, found = np.bincount(classes.ravel(), minlength=256), []
    for k in np.flatnonzero(counts[: len(palette)] >= _SMALLEST * classes.size).tolist():
        mask = np.pad((classes == k).astype(np.uint8), 1)  # a region that leaves the picture ends at its edge
        inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(int(inside.argmax()), inside.shape)
        found.append((k, int(x), int(y), bool(_luminance(palette[k]) < 0.35)))
    return found


def _luminance(colour: tuple[int, int, int]) -> float:
    linear = [float((value / 255) ** 2.2) for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def disagreement(photo: Image, truth: Image, first: Image, second: Image) -> Image:
    """The photograph in pale grey; won pixels full, lost ones striped, those where both are wrong dotted, all outlined.

    Args:
        photo: (H, W, 3); the others (H, W).
    """
    differ, counted = first != second, truth != 255
    won, lost = differ & counted & (second == truth), differ & counted & (first == truth)
    other = differ & counted & ~won & ~lost
    grey = 110 + 0.55 * photo.astype(np.float32).mean(2, keepdims=True)
    marked: NDArray[np.float32] = np.repeat(grey, 3, 2)
    ys, xs = np.indices(truth.shape)
    step = max(4, truth.shape[1] // _HATCH)
    stripes = (xs + ys) % step < step // 2
    dots = (xs % step < step // 2) & (ys % step < step // 2)
    for region, pattern, colour in ((won, True, _WON), (lost, stripes, _LOST), (other, dots, _OTHER)):
        marked[region & pattern] = colour
        marked[_edge(region)] = colour
    return np.clip(marked, 0, 255).astype(np.uint8)


def _edge(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside = region.copy()
    inside[1:] &= region[:-1]
    inside[:-1] &= region[1:]
    inside[:, 1:] &= region[:, :-1]
    inside[:, :-1] &= region[:, 1:]
    return region & ~inside


def full_palette(palette: Palette) -> Image:
    """(256, 3); what is no class has a colour that no class has, black where that is free.

    A class whose colour is another's too gets the nearest free one, so that every class can be read from its colour.
    """
    taken = [tuple(map(int, colour)) for colour in palette]
    ground = _ground(taken)
    colours = np.full((256, 3), ground, np.uint8)
    used: set[tuple[int, ...]] = {ground}
    for k, colour in enumerate(taken):
        chosen = next(free for free in _near(colour) if free not in used)
        used.add(chosen)
        colours[k] = chosen
    return colours


def _ground(taken: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """The first that lies far from all classes, else the one that lies farthest."""

    def distance(ground: tuple[int, int, int]) -> float:
        return min((math.dist(ground, colour) for colour in taken), default=math.inf)

    return next((ground for ground in _GROUNDS if distance(ground) >= _FAR), max(_GROUNDS, key=distance))


def _near(colour: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The colour itself, then others ever farther from it."""
    for step in range(256):
        for sign in (1, -1):
            for channel in (2, 0, 1):
                moved = list(colour)
                moved[channel] += sign * step
                if 0 <= moved[channel] <= 255:
                    yield tuple(moved)


def reduced(picture: Image, widest: int = WIDEST) -> Image:
    """At most so wide: a photograph averaged, a map of classes taken as it is."""
    import cv2

    height, width = picture.shape[:2]
    if width <= widest:
        return picture
    size = (widest, max(1, round(height * widest / width)))
    way = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, size, interpolation=way), np.uint8)
