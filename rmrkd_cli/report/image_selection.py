"""The images of a report: which ones are chosen, from the counts of every image, and what is shown of each.

Knows no torch: `predictions` loads the images and predicts them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.comparison.types import Comparison, Difference
from rmrkd_cli.results.record import Record

EXTREMES, RANDOM = 6, 6
_SEED = 2025

Reason = Literal["gain", "loss", "random"]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Choice:
    """A chosen image.

    Attributes:
        index: Among the samples.
        reason: Why it was chosen: an extreme of the main difference, or at random.
        difference: The main difference in the mean IoU of this image, -1..1; None where unknown.
    """

    index: int
    reason: Reason
    difference: float | None = None


@dataclass(frozen=True)
class ReportImage:
    """One chosen image and its predictions.

    Attributes:
        image: (H, W, 3) RGB.
        truth: (H, W) classes; 255 is ignored.
        predictions: (H, W) classes, by label of the group.
    """

    name: str
    choice: Choice
    image: Image
    truth: Image
    predictions: Mapping[str, Image]


@dataclass(frozen=True)
class ReportImages:
    """All images of a report.

    Attributes:
        images: In the order of the choices.
        palette: Colour of each class.
        checkpoints: Which checkpoint of each group made its predictions, in words.
        missing: A sentence for each image or prediction that could not be made.
    """

    images: tuple[ReportImage, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def main_difference(comparison: Comparison) -> Difference | None:
    """Return the difference that the report is about: of the first distilled group, else the first."""
    roles = {group.label: group.role for group in comparison.groups}
    differences = comparison.differences
    distilled = (difference for difference in differences if roles.get(difference.to) == "distill")
    return next(distilled, next(iter(differences), None))


def representative_records(
    comparison: Comparison, has_network: Callable[[Record], bool] = lambda _: True
) -> dict[str, Record]:
    """Return one record of each group by label, all of the same seed where the compared groups share one.

    Args:
        has_network: Whether the network of a record is available. A group without any gives its first record.
    """
    usable = {group.label: [record for record in group.records if has_network(record)] for group in comparison.groups}
    main = main_difference(comparison)
    seeds = [record.get("seed") for record in usable.get(main.to, ())] if main else []
    seeds_of_base = {record.get("seed") for record in usable.get(main.base, ())} if main else set()
    seed = next((seed for seed in seeds if seed in seeds_of_base), None)
    chosen = {}
    for group in comparison.groups:
        records = usable[group.label] or group.records
        chosen[group.label] = next((record for record in records if record.get("seed") == seed), records[0])
    return chosen


def choose_images(
    comparison: Comparison,
    records: Mapping[str, Record] | None = None,
    *,
    extremes: int = EXTREMES,
    others: int = RANDOM,
    seed: int = _SEED,
) -> tuple[Choice, ...]:
    """Choose the images with the largest gain and loss of the main difference, and random ones; none twice.

    Args:
        records: The record of each group whose network predicts the images, see `representative_records`.
        extremes: Half of them gains, half losses; fewer where fewer images differ, none without counts of images.
    """
    count = comparison.protocol["images"]
    differences = image_differences(comparison, records or representative_records(comparison)) or {}
    order = sorted(differences, key=lambda index: (-differences[index], index))
    gains = [index for index in order if differences[index] > 0][: (extremes + 1) // 2]
    losses = [index for index in reversed(order) if differences[index] < 0][: extremes // 2]
    taken = {*gains, *losses}
    drawn = random.Random(seed).sample(range(count), min(count, others + len(taken)))
    rest = sorted([index for index in drawn if index not in taken][:others])
    reasons: tuple[tuple[Reason, list[int]], ...] = (("gain", gains), ("loss", losses), ("random", rest))
    return tuple(Choice(index, reason, differences.get(index)) for reason, indices in reasons for index in indices)


def image_differences(comparison: Comparison, records: Mapping[str, Record]) -> dict[int, float] | None:
    """Return the main difference in the mean IoU of each image, -1..1, by index.

    Images without an IoU are left out. Returns None where counts of images are unknown or of another number of them.
    """
    main = main_difference(comparison)
    if main is None or main.base not in records or main.to not in records:
        return None
    count = comparison.protocol["images"]
    base, to = (_image_means(records[label].get("per_image"), count) for label in (main.base, main.to))
    if base is None or to is None:
        return None
    differences = to - base
    return {int(index): float(differences[index]) for index in np.flatnonzero(~np.isnan(differences))}


def _image_means(per_image: Mapping[str, Any] | None, count: int) -> NDArray[np.float64] | None:
    if not per_image or len(per_image.get("counts", ())) != count:
        return None
    return np.array([_image_mean(flat) for flat in per_image["counts"]])


def _image_mean(flat: Sequence[int]) -> float:
    """Return the mean IoU over the classes of an image, from its flat list of counts."""
    if not flat or len(flat) % 4:
        return float("nan")
    _, correct, true, predicted = np.asarray(flat, np.float64).reshape(-1, 4).T
    union = true + predicted - correct
    return float((correct[union > 0] / union[union > 0]).mean()) if (union > 0).any() else float("nan")
