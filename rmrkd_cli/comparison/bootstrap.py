"""How far a difference between two networks could be chance: a paired bootstrap over the images both were measured on.

A resample draws as many images as there are, with replacement, and counts each as often as it was drawn; both networks
are counted on the same draw, so that what makes an image hard for both takes no part in the difference. The interval is
the studentised one (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5): each resample's
difference is measured in its own standard error, which follows from the images' influence on ratios of sums. On a
hundred images of skewed sizes percentiles of the differences themselves hold the truth too seldom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

RESAMPLES = 4000
FEWEST_IMAGES = 10  # that hold a class, and on which networks differ: of fewer, many resamples draw hardly any
_SMALLEST_ERROR = 1e-7  # of a ratio: below, networks are the same and what is left is rounding
_BLOCK = 1 << 24  # numbers of one block of resamples


def counts_of(per_image: Any, classes: int) -> Counts:
    """A record's `per_image` as (images, 3, classes): right pixels, pixels of the truth, predicted pixels."""
    lengths = [len(flat) // 4 for flat in per_image["counts"]]
    image = np.repeat(np.arange(len(lengths)), lengths)
    numbers = np.array([value for flat in per_image["counts"] for value in flat], dtype=np.int64).reshape(-1, 4)
    counts = np.zeros((len(lengths), 3, classes), dtype=np.int64)
    counts[image, :, numbers[:, 0]] = numbers[:, 1:]
    return counts


def iou(counts: NDArray[Any]) -> Values:
    """IoU of each class and their mean, (…, classes + 1), of counts (…, 3, classes); NaN for what never occurs."""
    hit = counts[..., 0, :].astype(np.float64)
    union = counts[..., 1, :] + counts[..., 2, :] - hit
    ratios = np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
    return np.concatenate([ratios, _mean(ratios, union > 0)], axis=-1)


def paired_intervals(
    base: Sequence[Counts], to: Sequence[Counts], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Values:
    """The interval of the difference `to` minus `base`, for the IoU of each class and for mIoU.

    Args:
        base, to: Counts (images, 3, classes) of the same images, one array a network; the ratios of several (of other
            seeds) are averaged. The interval is about the choice of images alone: these networks, other images.
        level: How often it shall hold the truth.

    Returns:
        (classes + 1, 2): low and high, -1..1; NaN where fewer than `FEWEST_IMAGES` hold the class, or tell the
        networks apart: a resample that misses all of those has no standard error to be measured in.
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
        away = np.concatenate([(part.value - value) / part.error for part in parts])
    away[~np.isfinite(away)] = np.nan  # the class is not in the resample
    interval = np.full((classes + 1, 2), np.nan)
    holding = np.append((base[0][:, 1] > 0).sum(0), images)
    telling = networks.telling()
    known = (
        (holding >= FEWEST_IMAGES)
        & (telling >= FEWEST_IMAGES)
        & np.isfinite(value)
        & (error > _SMALLEST_ERROR)
        & (~np.isnan(away)).any(0)
    )
    if known.any():
        high, low = np.nanquantile(away[:, known], [(1 + level) / 2, (1 - level) / 2], axis=0)
        interval[known, 0] = value[known] - high * error[known]
        interval[known, 1] = value[known] - low * error[known]
    return interval.clip(-1.0, 1.0)


class _Drawn(NamedTuple):
    """Of each resample, (resamples, classes + 1): the difference, and its standard error."""

    value: Values
    error: Values


class _Networks(NamedTuple):
    """All networks of both sides.

    Attributes:
        hit, union: (networks, images, classes), as shares of the largest union of the class.
        signs: (networks,), the part of each in the difference: negative for those of the base.
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

    def telling(self) -> NDArray[np.int64]:
        """On how many images networks differ, (classes + 1,): in each class, and in any."""
        differ = ((self.hit != self.hit[:1]) | (self.union != self.union[:1])).any(0)
        return np.append(differ.sum(0), differ.any(1).sum())

    def difference(self, times: Values) -> _Drawn:
        """Of resamples that hold each image so many times, (resamples, images)."""
        hits, unions = (np.einsum("ri,nik->nrk", times, part, optimize=True) for part in (self.hit, self.union))
        there = unions > 0
        ratios = np.divide(hits, unions, out=np.full_like(hits, np.nan), where=there)
        value = np.concatenate([ratios, _mean(ratios, there)], axis=-1)
        signed = self.signs[:, None, None]
        # what an image adds to the ratio of its class: (hit - ratio * union) / the sum of unions
        slope = np.divide(signed, unions, out=np.zeros_like(unions), where=there)
        drop = slope * np.where(there, ratios, 0.0)
        return _Drawn(
            (signed * value).sum(0),
            np.concatenate(
                [self._error_of_classes(times, slope, drop), self._error_of_mean(times, slope, drop, there)], axis=-1
            ),
        )

    def _error_of_classes(self, times: Values, slope: Values, drop: Values) -> Values:
        """The sum over images of squared influences, as a quadratic form in sums of products.

        As many classes at once as memory is meant for: with many seeds the products are many.
        """
        parts = np.concatenate([self.hit, self.union])  # (2 networks, images, classes)
        factors = np.concatenate([slope, -drop])
        count, images, classes = parts.shape
        step = max(1, _BLOCK // (images * count**2))
        squares = np.empty((len(times), classes))
        for start in range(0, classes, step):
            some = slice(start, start + step)
            products = np.einsum("aik,bik->ikab", parts[..., some], parts[..., some])
            sums = (times @ products.reshape(images, -1)).reshape(len(times), *products.shape[1:])
            squares[:, some] = np.einsum(
                "ark,rkab,brk->rk", factors[..., some], sums, factors[..., some], optimize=True
            )
        errors: Values = np.sqrt(squares.clip(0.0))
        return errors

    def _error_of_mean(self, times: Values, slope: Values, drop: Values, there: NDArray[np.bool_]) -> Values:
        share = 1 / np.maximum(there.sum(-1, keepdims=True), 1)
        influence = np.einsum("nik,nrk->ri", self.hit, slope * share, optimize=True)
        influence -= np.einsum("nik,nrk->ri", self.union, drop * share, optimize=True)
        error: Values = np.sqrt((times * influence**2).sum(-1, keepdims=True))
        return error


def _mean(ratios: Values, there: NDArray[np.bool_]) -> Values:
    """Over the classes that occur, (…, 1)."""
    number = there.sum(-1, keepdims=True)
    total = np.where(there, ratios, 0.0).sum(-1, keepdims=True)
    mean: Values = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return mean
