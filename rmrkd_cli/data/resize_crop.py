"""Random resizing and cropping in one step, which computes only the pixels of the crop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.sample_reader import IGNORE, Pair

_TRIES = 10
_MARGIN = 2  # source pixels around the window that bilinear interpolation needs


class Window(NamedTuple):
    """A rectangle of the resized image.

    Attributes:
        scaled: (height, width) of the resized image.
    """

    scaled: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


class ResizedCrop:
    """mmsegmentation's `Resize(ratio_range)` and `RandomCrop(cat_max_ratio)` in one transform.

    It draws the same numbers in the same order from NumPy's global generator: a seed gives the same window and labels.
    The image differs by at most one grey level, because OpenCV's `resize` rounds its weights to 1/2048 and
    `warpAffine` does not. Only `warpAffine` can start at any pixel.

    Args:
        scale: (width, height) that images are fitted into, before the random ratio.
        ratio_range: Smallest and largest ratio.
        crop: (height, width) of the window, which is smaller if the resized image is smaller.
        largest_share: The window is drawn again, up to ten times, while one class covers this share of its labels.
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
        """Return the same window of image and labels."""
        return self.cut(pair)[0]

    def cut(self, pair: Pair, *, labelled: bool = True) -> tuple[Pair, Window]:
        """Return the same window of image and labels, and where it was.

        Args:
            labelled: Whether the labels are known; otherwise the first window is taken.
        """
        scaled = self._draw_size(pair.labels.shape)
        window = self._draw_window(scaled)
        labels = _nearest(pair.labels, window)
        for _ in range(_TRIES if labelled else 0):
            if self._is_mixed(labels):
                break
            window = self._draw_window(scaled)
            labels = _nearest(pair.labels, window)
        return Pair(_bilinear(pair.image, window), labels), window

    def _draw_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        from mmcv.image import rescale_size

        low, high = self.ratio_range
        ratio = np.random.random_sample() * (high - low) + low
        fitted = int(self.scale[0] * ratio), int(self.scale[1] * ratio)
        width, height = rescale_size((shape[1], shape[0]), fitted)
        return int(height), int(width)

    def _draw_window(self, scaled: tuple[int, int]) -> Window:
        top, left = (
            int(np.random.randint(0, max(size - wanted, 0) + 1)) for size, wanted in zip(scaled, self.crop, strict=True)
        )
        height, width = (min(size, wanted) for size, wanted in zip(scaled, self.crop, strict=True))
        return Window(scaled, top, left, height, width)

    def _is_mixed(self, labels: Picture) -> bool:
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
        return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.largest_share)


def _nearest(labels: Picture, window: Window) -> Picture:
    """Resize the window as OpenCV's `INTER_NEAREST`: pixel i has the source pixel floor(i * source / target)."""
    rows = _source_pixels(window.top, window.height, labels.shape[0], window.scaled[0])
    columns = _source_pixels(window.left, window.width, labels.shape[1], window.scaled[1])
    return labels[rows].take(columns, axis=1)


def _source_pixels(first: int, count: int, source: int, target: int) -> NDArray[np.intp]:
    step = 1.0 / (target / source)  # rounded in the same order as in OpenCV
    sources: NDArray[np.intp] = np.floor(np.arange(first, first + count) * step).astype(np.intp)
    return sources.clip(max=source - 1)


def _bilinear(image: Picture, window: Window) -> Picture:
    """Resize the window as OpenCV's `INTER_LINEAR`, from the part of the source that it needs."""
    import cv2

    if image.shape[:2] == window.scaled:
        return image[window.top : window.top + window.height, window.left : window.left + window.width].copy()
    top, below, down, shift_down = _source_range(window.top, window.height, image.shape[0], window.scaled[0])
    left, beyond, across, shift_across = _source_range(window.left, window.width, image.shape[1], window.scaled[1])
    to_source = np.array([[across, 0.0, shift_across], [0.0, down, shift_down]])
    resized: Picture = cv2.warpAffine(
        image[top:below, left:beyond],
        to_source,
        (window.width, window.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return resized


def _source_range(first: int, count: int, source: int, target: int) -> tuple[int, int, float, float]:
    """Return the bounds of the source pixels, source pixels per target pixel, and where the first target pixel is."""
    step = source / target
    begin = (first + 0.5) * step - 0.5
    low = max(int(begin) - _MARGIN, 0)
    high = min(int(begin + count * step) + 1 + _MARGIN, source)
    return low, high, step, begin - low
