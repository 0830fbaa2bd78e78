"""Random resizing and cropping that computes no pixel it does not keep."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.sample_reader import IGNORE, Pair

_TRIES = 10
_REACH = 2  # pixels beyond the window that bilinear interpolation may ask for


class Window(NamedTuple):
    """A rectangle of the resized image: `scaled` (height, width) of that image, and the window's place in it."""

    scaled: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


class ResizedCrop:
    """mmsegmentation's `Resize(ratio_range)` and `RandomCrop(cat_max_ratio)` in one.

    It makes the same draws in the same order from NumPy's global generator, so that a seed gives the same window and
    the same labels. The image differs from theirs by at most one grey level: OpenCV's `resize` rounds its weights to
    1/2048, `warpAffine`, which can begin anywhere, does not.

    Args:
        scale: (width, height) that images are fitted into, before the random ratio.
        ratio_range: Bounds of that ratio.
        crop: (height, width) of the window; less where the resized image is smaller.
        largest_share: A window is drawn again, up to ten times, while one class covers this much of its labels.
    """

    def __init__(
        self,
        *,
        scale: tuple[int, int],
        ratio_range: tuple[float, float],
        crop: tuple[int, int],
        largest_share: float = 0.75,
    ) -> None:
        self.scale, self.ratio_range, self.crop = scale, ratio_range, crop
        self.largest_share = largest_share

    def __call__(self, pair: Pair) -> Pair:
        """The window of both, at its size."""
        scaled = self._scaled(pair.labels.shape)
        window = self._draw(scaled)
        labels = _nearest(pair.labels, window)
        for _ in range(_TRIES):
            if self._is_mixed(labels):
                break
            window = self._draw(scaled)
            labels = _nearest(pair.labels, window)
        return Pair(_bilinear(pair.image, window), labels)

    def _scaled(self, shape: tuple[int, ...]) -> tuple[int, int]:
        from mmcv.image import rescale_size

        low, high = self.ratio_range
        ratio = np.random.random_sample() * (high - low) + low
        fitted = int(self.scale[0] * ratio), int(self.scale[1] * ratio)
        width, height = rescale_size((shape[1], shape[0]), fitted)
        return int(height), int(width)

    def _draw(self, scaled: tuple[int, int]) -> Window:
        top, left = (
            int(np.random.randint(0, max(size - wanted, 0) + 1)) for size, wanted in zip(scaled, self.crop, strict=True)
        )
        height, width = (min(size, wanted) for size, wanted in zip(scaled, self.crop, strict=True))
        return Window(scaled, top, left, height, width)

    def _is_mixed(self, labels: Picture) -> bool:
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
        return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.largest_share)


def _nearest(labels: Picture, window: Window) -> Picture:
    """The window as OpenCV's `INTER_NEAREST` resizes: source pixel floor(i * source / target)."""
    rows = _sources(window.top, window.height, labels.shape[0], window.scaled[0])
    columns = _sources(window.left, window.width, labels.shape[1], window.scaled[1])
    return labels[rows].take(columns, axis=1)


def _sources(first: int, count: int, source: int, target: int) -> NDArray[np.intp]:
    step = 1.0 / (target / source)  # in OpenCV's order of rounding
    sources: NDArray[np.intp] = np.floor(np.arange(first, first + count) * step).astype(np.intp)
    return sources.clip(max=source - 1)


def _bilinear(image: Picture, window: Window) -> Picture:
    """The window as OpenCV's `INTER_LINEAR` resizes, from the part of the source that it needs."""
    import cv2

    if image.shape[:2] == window.scaled:
        return image[window.top : window.top + window.height, window.left : window.left + window.width].copy()
    top, below, down, shift_down = _part(window.top, window.height, image.shape[0], window.scaled[0])
    left, beyond, across, shift_across = _part(window.left, window.width, image.shape[1], window.scaled[1])
    to_source = np.array([[across, 0.0, shift_across], [0.0, down, shift_down]])
    resized: Picture = cv2.warpAffine(
        image[top:below, left:beyond],
        to_source,
        (window.width, window.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return resized


def _part(first: int, count: int, source: int, target: int) -> tuple[int, int, float, float]:
    """Bounds of the source pixels needed, the step a target pixel makes among them, and where the first one falls."""
    step = source / target
    begin = (first + 0.5) * step - 0.5
    low = max(int(begin) - _REACH, 0)
    high = min(int(begin + count * step) + 1 + _REACH, source)
    return low, high, step, begin - low
