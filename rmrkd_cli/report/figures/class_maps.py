"""Class maps as pictures: their colours, the positions of their numbers, and where two of them differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.comparison.types import Difference

WIDEST = 640  # pixels of an image in a report

_MIN_SHARE = 0.012  # of the image's pixels, from which a class gets its number
_DARK = 0.35  # luminance below which a number is white
_STRIPES = 50  # in the width of an overlay
_DISTINCT = 60  # distance of two colours (0 to 255) from which they look different
_BACKGROUNDS = ((0, 0, 0), (255, 255, 255), (224, 224, 192), (255, 0, 255), (0, 255, 255), (96, 96, 96))
_SECOND_CORRECT, _FIRST_CORRECT, _NEITHER_CORRECT = (0, 114, 178), (230, 130, 0), (120, 120, 120)

Image = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]


def compared_pair(main: Difference | None, labels: Sequence[str]) -> tuple[str, str] | None:
    """Return the two groups whose predictions are compared: those of the main difference, else the first two."""
    if main is not None and main.base in labels and main.to in labels:
        return main.base, main.to
    return (labels[0], labels[1]) if len(labels) > 1 else None


def label_positions(classes: Image, palette: Palette) -> list[tuple[int, int, int, bool]]:
    """Return (class, x, y, whether its colour is dark) at the innermost pixel of each class that is large enough."""
    import cv2

    counts, positions = np.bincount(classes.ravel(), minlength=256), []
    for k in np.flatnonzero(counts[: len(palette)] >= _MIN_SHARE * classes.size).tolist():
        mask = np.pad((classes == k).astype(np.uint8), 1)  # so that a region ends at the edge of the image
        inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(int(inside.argmax()), inside.shape)
        positions.append((k, int(x), int(y), bool(_luminance(palette[k]) < _DARK)))
    return positions


def _luminance(colour: tuple[int, int, int]) -> float:
    linear = [float((value / 255) ** 2.2) for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def difference_overlay(photo: Image, truth: Image, first: Image, second: Image) -> Image:
    """Return the photograph in grey with the pixels marked on which two predictions differ.

    Solid blue: only the second is correct. Orange stripes: only the first is. Grey dots: neither is.

    Args:
        photo: (H, W, 3).
        truth, first, second: (H, W) classes; pixels whose truth is 255 stay unmarked.
    """
    differ = (first != second) & (truth != 255)
    second_correct, first_correct = differ & (second == truth), differ & (first == truth)
    neither = differ & ~second_correct & ~first_correct
    grey = 110 + 0.55 * photo.astype(np.float32).mean(2, keepdims=True)
    overlay: NDArray[np.float32] = np.repeat(grey, 3, 2)
    ys, xs = np.indices(truth.shape)
    step = max(4, truth.shape[1] // _STRIPES)
    stripes = (xs + ys) % step < step // 2
    dots = (xs % step < step // 2) & (ys % step < step // 2)
    for region, pattern, colour in (
        (second_correct, True, _SECOND_CORRECT), (first_correct, stripes, _FIRST_CORRECT),
        (neither, dots, _NEITHER_CORRECT),
    ):  # fmt: skip
        overlay[region & pattern] = colour
        overlay[_outline(region)] = colour
    return np.clip(overlay, 0, 255).astype(np.uint8)


def _outline(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside = region.copy()
    inside[1:] &= region[:-1]
    inside[:-1] &= region[1:]
    inside[:, 1:] &= region[:, :-1]
    inside[:, :-1] &= region[:, 1:]
    return region & ~inside


def full_palette(palette: Palette) -> Image:
    """Return (256, 3) colours, one for each class; all other values share a colour that no class has.

    Where two classes have the same colour, the later one gets the nearest free colour, so that every class can be
    read from its colour.
    """
    class_colours = [tuple(map(int, colour)) for colour in palette]
    background = _background(class_colours)
    colours = np.full((256, 3), background, np.uint8)
    used: set[tuple[int, ...]] = {background}
    for k, colour in enumerate(class_colours):
        free = next(near for near in _nearby_colours(colour) if near not in used)
        used.add(free)
        colours[k] = free
    return colours


def _background(class_colours: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Return the first candidate that is distinct from all classes, else the most distant one."""

    def distance(background: tuple[int, int, int]) -> float:
        return min((math.dist(background, colour) for colour in class_colours), default=math.inf)

    distinct = (background for background in _BACKGROUNDS if distance(background) >= _DISTINCT)
    return next(distinct, max(_BACKGROUNDS, key=distance))


def _nearby_colours(colour: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the colour itself, then colours at a growing distance."""
    for step in range(256):
        for sign in (1, -1):
            for channel in (2, 0, 1):
                moved = list(colour)
                moved[channel] += sign * step
                if 0 <= moved[channel] <= 255:
                    yield tuple(moved)


def shrink(image: Image, width: int) -> Image:
    """Return an image of at most `width` pixels: a photograph is averaged, a class map is sampled."""
    import cv2

    if image.shape[1] <= width:
        return image
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    interpolation = cv2.INTER_AREA if image.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=interpolation), np.uint8)
