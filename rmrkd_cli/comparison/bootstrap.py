"""Confidence intervals of a difference in IoU: a paired, studentised bootstrap over the test images.

A resample draws as many images as there are, with replacement. Both networks are evaluated on the same draw, so an
image that is hard for both does not add to the difference. Each resample's difference is divided by its own standard
error, which follows from the images' influence on ratios of sums (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, section 12.5). Plain percentiles of the differences contain the true value too seldom on a hundred
images of skewed sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

RESAMPLES = 4000
MIN_IMAGES = 10  # with the class, and with different counts; with fewer, many resamples draw hardly any of them
_MIN_ERROR = 1e-7  # standard error of a ratio, below which only rounding differs
_BLOCK = 1 << 24  # numbers in memory for one block of resamples


def counts_of(per_image: Any, classes: int) -> Counts:
    """Return a record's `per_image` as (images, 3, classes): correct, true and predicted pixels."""
    lengths = [len(flat) // 4 for flat in per_image["counts"]]
    image = np.repeat(np.arange(len(lengths)), lengths)
    numbers = np.array([value for flat in per_image["counts"] for value in flat], dtype=np.int64).reshape(-1, 4)
    counts = np.zeros((len(lengths), 3, classes), dtype=np.int64)
    counts[image, :, numbers[:, 0]] = numbers[:, 1:]
    return counts


def iou(counts: NDArray[Any]) -> Values:
    """Return the IoU of each class and their mean, (…, classes + 1), from counts (…, 3, classes).

    NaN for a class that never occurs.
    """
    hit = counts[..., 0, :].astype(np.float64)
    union = counts[..., 1, :] + counts[..., 2, :] - hit
    ratios = np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
    return np.concatenate([ratios, _mean(ratios, union > 0)], axis=-1)


def paired_intervals(
    base: Sequence[Counts], to: Sequence[Counts], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Values:
    """Return the interval of the difference `to` minus `base`, for the IoU of each class and for mIoU.

    The interval covers the choice of test images, not training noise.

    Args:
        base, to: Counts (images, 3, classes) on the same images, one array a network. IoUs of several networks
            (seeds) are averaged.
        level: Share of intervals that contain the true difference.

    Returns:
        (classes + 1, 2): low and high, -1..1. NaN where fewer than `MIN_IMAGES` images have the class, or differ
        between the networks: a resample without any of them has no standard error.
    """
    images, _, classes = base[0].shape
    networks = _Networks.of(base, to)
    draws = np.random.default_rng(seed)
    total = networks.difference(np.ones((1, images)))
    block = max(1, _BLOCK // max(images, classes * (2 * len(networks.signs)) ** 2))
    parts = [
        networks.difference(draws.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64))
        for size in (min(block, resamples - start) for start in range(0, resamples, block))
    ]
    value, error = total.value[0], total.error[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.concatenate([(part.value - value) / part.error for part in parts])
    scaled[~np.isfinite(scaled)] = np.nan  # the class is not in the resample
    interval = np.full((classes + 1, 2), np.nan)
    images_with_class = np.append((base[0][:, 1] > 0).sum(0), images)
    known = (
        (images_with_class >= MIN_IMAGES)
        & (networks.differing_images() >= MIN_IMAGES)
        & np.isfinite(value)
        & (error > _MIN_ERROR)
        & (~np.isnan(scaled)).any(0)
    )
    if known.any():
        high, low = np.nanquantile(scaled[:, known], [(1 + level) / 2, (1 - level) / 2], axis=0)
        interval[known, 0] = value[known] - high * error[known]
        interval[known, 1] = value[known] - low * error[known]
    return interval.clip(-1.0, 1.0)


class _Differences(NamedTuple):
    """The difference of each resample and its standard error, both (resamples, classes + 1)."""

    value: Values
    error: Values


class _Networks(NamedTuple):
    """All networks of both sides.

    Attributes:
        hit, union: Correct pixels and union, (networks, images, classes), divided by the largest union of the class.
        signs: (networks,), the factor of each network in the difference, negative for the base.
    """

    hit: Values
    union: Values
    signs: Values

    @classmethod
    def of(cls, base: Sequence[Counts], to: Sequence[Counts]) -> _Networks:
        counts = np.stack([*base, *to]).astype(np.float64)
        hit = counts[:, :, 0]
        union = counts[:, :, 1] + counts[:, :, 2] - hit
        scale = np.maximum(union.sum(1).max(0), 1.0)
        signs = np.array([-1 / len(base)] * len(base) + [1 / len(to)] * len(to))
        return cls(hit / scale, union / scale, signs)

    def differing_images(self) -> NDArray[np.int64]:
        """Return the number of images with different counts, (classes + 1,): in each class, and in any."""
        differ = ((self.hit != self.hit[:1]) | (self.union != self.union[:1])).any(0)
        return np.append(differ.sum(0), differ.any(1).sum())

    def difference(self, times: Values) -> _Differences:
        """Return the differences of resamples.

        Args:
            times: How often a resample draws each image, (resamples, images).
        """
        hits, unions = (np.einsum("ri,nik->nrk", times, part, optimize=True) for part in (self.hit, self.union))
        occurs = unions > 0
        ratios = np.divide(hits, unions, out=np.full_like(hits, np.nan), where=occurs)
        value = np.concatenate([ratios, _mean(ratios, occurs)], axis=-1)
        signed = self.signs[:, None, None]
        # the influence of an image on the ratio of its class is (hit - ratio * union) / sum of unions
        slope = np.divide(signed, unions, out=np.zeros_like(unions), where=occurs)
        drop = slope * np.where(occurs, ratios, 0.0)
        return _Differences(
            (signed * value).sum(0),
            np.concatenate(
                [self._error_of_classes(times, slope, drop), self._error_of_mean(times, slope, drop, occurs)], axis=-1
            ),
        )

    def _error_of_classes(self, times: Values, slope: Values, drop: Values) -> Values:
        """Return the root of the sum over images of squared influences, as a quadratic form in sums of products.

        Works on blocks of classes: with many seeds the products take much memory.
        """
        parts = np.concatenate([self.hit, self.union])  # (2 networks, images, classes)
        factors = np.concatenate([slope, -drop])
        count, images, classes = parts.shape
        step = max(1, _BLOCK // (images * count**2))
        squares = np.empty((len(times), classes))
        for start in range(0, classes, step):
            part = slice(start, start + step)
            products = np.einsum("aik,bik->ikab", parts[..., part], parts[..., part])
            sums = (times @ products.reshape(images, -1)).reshape(len(times), *products.shape[1:])
            squares[:, part] = np.einsum(
                "ark,rkab,brk->rk", factors[..., part], sums, factors[..., part], optimize=True
            )
        errors: Values = np.sqrt(squares.clip(0.0))
        return errors

    def _error_of_mean(self, times: Values, slope: Values, drop: Values, occurs: NDArray[np.bool_]) -> Values:
        share = 1 / np.maximum(occurs.sum(-1, keepdims=True), 1)
        influence = np.einsum("nik,nrk->ri", self.hit, slope * share, optimize=True)
        influence -= np.einsum("nik,nrk->ri", self.union, drop * share, optimize=True)
        error: Values = np.sqrt((times * influence**2).sum(-1, keepdims=True))
        return error


def _mean(ratios: Values, occurs: NDArray[np.bool_]) -> Values:
    """Return the mean over the classes that occur, (…, 1)."""
    number = occurs.sum(-1, keepdims=True)
    total = np.where(occurs, ratios, 0.0).sum(-1, keepdims=True)
    mean: Values = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return mean
