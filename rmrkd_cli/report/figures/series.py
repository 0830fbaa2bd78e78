"""Curves of several runs as series to draw: thinned, smoothed, over iterations or seconds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rmrkd_cli.results.training_log import Column, Curves

_MOST_POINTS = 150
_SPREAD = 20  # between the largest and the smallest value, from which on a logarithmic axis shows more

Points = tuple[tuple[float, float], ...]
Runs = Mapping[str, Sequence[Curves]]
_Get = Callable[[Curves], Column]


@dataclass(frozen=True)
class Series:
    """A run's line. `label` is shared by all runs of a group."""

    label: str
    points: Points


@dataclass(frozen=True)
class Panel:
    """Lines that share their axes.

    Attributes:
        unit: What y counts; empty for a loss.
        log: Whether y is better shown logarithmically.
        marked: Every point was measured, and is marked.
    """

    title: str
    unit: str
    series: tuple[Series, ...]
    log: bool = False
    marked: bool = False


def panels(runs: Runs, *, seconds: bool = False, smooth: float = 0.0, more: bool = False) -> list[Panel]:
    """mIoU, the total loss and each weighted loss, as far as any run has them.

    Args:
        runs: By label.
        seconds: Over the seconds of training, else over iterations.
        smooth: Weight of what was before in a running mean, 0 (none) to below 1.
        more: Learning rate and gradient norm as well.
    """
    made = [Panel("validation mIoU", "%", tuple(_validations(runs, seconds)), marked=True)]
    made.append(_loss_panel("total weighted loss", runs, lambda run: run.total, seconds, smooth))
    names = dict.fromkeys(name for group in runs.values() for run in group for name in run.weighted)
    for name in names:
        made.append(_loss_panel(name, runs, _weighted(name), seconds, smooth))
    if more:
        made.append(_loss_panel("gradient norm", runs, lambda run: run.gradient_norm, seconds, smooth))
        made.append(Panel("learning rate", "", tuple(_lines(runs, lambda run: run.lr, seconds, 0.0))))
    return [panel for panel in made if any(series.points for series in panel.series)]


def _weighted(name: str) -> _Get:
    return lambda run: run.weighted.get(name, ())


def _loss_panel(title: str, runs: Runs, get: _Get, seconds: bool, smooth: float) -> Panel:
    series = tuple(_lines(runs, get, seconds, smooth))
    values = [y for one in series for _, y in one.points]
    log = bool(values) and min(values) > 0 and max(values) > _SPREAD * min(values)
    return Panel(title, "", series, log=log)


def _lines(runs: Runs, get: _Get, seconds: bool, smooth: float) -> Iterator[Series]:
    for label, group in runs.items():
        for run in group:
            places: Column = run.elapsed if seconds else run.iterations
            yield Series(label, thinned(smoothed(_known(places, get(run)), smooth)))


def _validations(runs: Runs, seconds: bool) -> Iterator[Series]:
    for label, group in runs.items():
        for run in group:
            places: Column = run.validated_elapsed if seconds else run.validated
            points = _known(places, tuple(100 * value for value in run.miou))
            yield Series(label, points if len(points) <= 2 * _MOST_POINTS else thinned(points))


def _known(places: Column, values: Column) -> Points:
    return tuple((x, y) for x, y in zip(places, values, strict=False) if x is not None and y is not None)


def smoothed(points: Points, weight: float) -> Points:
    """A running mean that begins without a bias towards zero."""
    if weight <= 0:
        return points
    total, known, done = 0.0, 0.0, []
    for x, y in points:
        total, known = weight * total + (1 - weight) * y, weight * known + 1 - weight
        done.append((x, total / known))
    return tuple(done)


def thinned(points: Points, most: int = _MOST_POINTS) -> Points:
    """Means of neighbours where there are more points than can be seen; the ends of the line stay where they are."""
    if len(points) <= most:
        return points
    bounds = [len(points) * number // most for number in range(most + 1)]
    parts = [points[low:high] for low, high in itertools.pairwise(bounds)]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
    means[0], means[-1] = (points[0][0], means[0][1]), (points[-1][0], means[-1][1])
    return tuple(means)
