"""Which images a reader should see, chosen from the counts of every image; and the images, once they are there.

Knows no torch: what loads and predicts is `report.predictions`.
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

Why = Literal["won", "lost", "random"]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Choice:
    """An image, by its place among the samples, and why it is shown.

    Attributes:
        difference: What `to` has more than `base` in mean IoU of this image, -1..1; none where it is not known.
    """

    index: int
    why: Why
    difference: float | None = None


@dataclass(frozen=True)
class Picture:
    """One chosen image.

    Attributes:
        image: (H, W, 3), red first.
        truth: (H, W), classes and 255 for what is not counted.
        predictions: By label of the group, (H, W) classes.
    """

    name: str
    choice: Choice
    image: Image
    truth: Image
    predictions: Mapping[str, Image]


@dataclass(frozen=True)
class ReportImages:
    """What could be shown, and what could not.

    Attributes:
        shown: In the order of the choices.
        palette: The data set's colour of each class.
        predicted_by: Of each group with predictions: which of its files they are of, in words.
        missing: What is not shown and why, a sentence each.
    """

    shown: tuple[Picture, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    predicted_by: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def main_difference(comparison: Comparison) -> Difference | None:
    """The one that a reader came for: of the first distilled group, else the first."""
    roles = {group.label: group.role for group in comparison.groups}
    differences = comparison.differences
    return next((found for found in differences if roles.get(found.to) == "distill"), next(iter(differences), None))


def shown_records(comparison: Comparison, usable: Callable[[Record], bool] = lambda _: True) -> dict[str, Record]:
    """Of each group the record whose network is shown, by label: all of one seed, where the compared groups share one.

    Args:
        usable: Whether a record's network is there; groups without any are shown by their first record.
    """
    there = {group.label: [record for record in group.records if usable(record)] for group in comparison.groups}
    main = main_difference(comparison)
    seeds = [record.get("seed") for record in there.get(main.to, ())] if main else []
    of_base = {record.get("seed") for record in there.get(main.base, ())} if main else set()
    seed = next((seed for seed in seeds if seed in of_base), None)
    shown = {}
    for group in comparison.groups:
        records = there[group.label] or group.records
        shown[group.label] = next((record for record in records if record.get("seed") == seed), records[0])
    return shown


def choose(
    comparison: Comparison,
    shown: Mapping[str, Record] | None = None,
    *,
    extremes: int = EXTREMES,
    others: int = RANDOM,
    seed: int = _SEED,
) -> tuple[Choice, ...]:
    """The images most won and most lost by the main difference, and some at random, none twice.

    Args:
        shown: As `shown_records` gives them: the figures are of the networks that are shown.
        extremes: Half of them won, half lost; fewer where fewer images differ so. None without counts of each image.
    """
    count = comparison.protocol["images"]
    difference = image_differences(comparison, shown or shown_records(comparison))
    chosen: list[Choice] = []
    if difference is not None:
        order = sorted(difference, key=lambda index: (-difference[index], index))
        won = [index for index in order if difference[index] > 0][: (extremes + 1) // 2]
        lost = [index for index in reversed(order) if difference[index] < 0][: extremes // 2]
        chosen = [Choice(index, "won", difference[index]) for index in won]
        chosen += [Choice(index, "lost", difference[index]) for index in lost]
    taken = {choice.index for choice in chosen}
    drawn = random.Random(seed).sample(range(count), min(count, others + len(taken)))
    rest = sorted([index for index in drawn if index not in taken][:others])
    known = difference or {}
    return (*chosen, *(Choice(index, "random", known.get(index)) for index in rest))


def image_differences(comparison: Comparison, shown: Mapping[str, Record]) -> dict[int, float] | None:
    """What `to` of the main difference has more than `base`, in the mean IoU of each image, -1..1.

    Images in which either has none are left out; none where the counts are not known, or of other images.
    """
    main = main_difference(comparison)
    if main is None or main.base not in shown or main.to not in shown:
        return None
    count = comparison.protocol["images"]
    base, to = (_means(shown[label].get("per_image"), count) for label in (main.base, main.to))
    if base is None or to is None:
        return None
    both = to - base
    return {int(index): float(both[index]) for index in np.flatnonzero(~np.isnan(both))}


def _means(per_image: Mapping[str, Any] | None, count: int) -> NDArray[np.float64] | None:
    if not per_image or len(per_image.get("counts", ())) != count:
        return None
    return np.array([_image_mean(flat) for flat in per_image["counts"]])


def _image_mean(flat: Sequence[int]) -> float:
    if not flat or len(flat) % 4:
        return float("nan")
    _, right, truth, predicted = np.asarray(flat, np.float64).reshape(-1, 4).T
    union = truth + predicted - right
    return float((right[union > 0] / union[union > 0]).mean()) if (union > 0).any() else float("nan")
